from datetime import UTC, datetime, timedelta, timezone

from streamlit.testing.v1 import AppTest

from tactful_ui.components import times


def test_a_time_is_in_utc_whatever_its_zone() -> None:
    assert times.moment(None) == "–"
    assert times.moment(0) == "1970-01-01 00:00 UTC"
    assert times.moment(1_772_366_400_000) == "2026-03-01 12:00 UTC"
    abroad = datetime(2026, 3, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    assert times.moment(abroad) == times.moment(abroad.astimezone(UTC)) == "2026-03-01 12:00 UTC"


def _page() -> None:
    import streamlit as st

    from tactful_ui.components import times

    times.choose()
    st.markdown(times.moment(1_772_366_400_000))


def test_the_reader_may_choose_the_zone_of_the_browser() -> None:
    page = AppTest.from_function(_page).run()
    assert page.markdown[0].value == "2026-03-01 12:00 UTC"
    page.toggle[0].set_value(True).run()  # a browser without a zone is in UTC
    assert not page.exception and page.markdown[0].value.startswith("2026-03-01 12:00 ")
