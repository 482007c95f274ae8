"""The Streamlit dashboard, which speaks to the platform over HTTP only."""
