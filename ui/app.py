"""Start the dashboard from a checkout: ``streamlit run ui/app.py``."""

from tactful_ui.app import main

main()
