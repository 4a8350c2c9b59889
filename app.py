"""Entry point of the dashboard: `streamlit run app.py`."""

from reports.dashboard import main

main()
