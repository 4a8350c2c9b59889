"""Entry point of the dashboard: `streamlit run app.py`.

The server imports this file when it starts, so that no reader waits for libraries, and reads the
store; it runs the file as a script whenever somebody opens a page or moves a filter.
"""

import streamlit as st

from reports.pages.dashboard import lifespan, main

app = st.App(__file__, lifespan=lifespan)

if __name__ == "__main__":
    main()
