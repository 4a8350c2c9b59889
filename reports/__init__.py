"""What people look at: figures, the dashboard and the static report. Nothing is measured here."""
