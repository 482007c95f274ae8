"""Times as files write them."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.imports.moments import MomentReader, UnclearTimes, moment_format

UTC = dt.UTC
BERLIN = ZoneInfo("Europe/Berlin")


def read(value: Any, zone: dt.tzinfo = UTC, **options: Any) -> str:
    """The time that a column of this value alone is read to."""
    form = moment_format([value], **options)
    assert form is not None
    at = MomentReader(form, zone)(value)
    return dt.datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds")[:-6]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-31", "2024-01-31T00:00:00.000"),
        ("2024-01-31 10:05", "2024-01-31T10:05:00.000"),
        ("2024-01-31T10:05:06.7891Z", "2024-01-31T10:05:06.789"),
        ("2024-01-31T10:05:06+02:00", "2024-01-31T08:05:06.000"),
        ("2019-10-01 00:00:00 UTC", "2019-10-01T00:00:00.000"),
        ("2024/1/5 7:03", "2024-01-05T07:03:00.000"),
        ("2024年1月31日 下午3:05", "2024-01-31T15:05:00.000"),
        ("31.1.2024", "2024-01-31T00:00:00.000"),
        ("01.02.2024 08:30", "2024-02-01T08:30:00.000"),  # points mean day first
        ("31/12/24 8.30", "2024-12-31T08:30:00.000"),
        ("12/31/2010 8:26 PM", "2010-12-31T20:26:00.000"),
        ("12/31/2010 12:26 am", "2010-12-31T00:26:00.000"),
        ("31 Jan 2024", "2024-01-31T00:00:00.000"),
        ("Mon, 31 Jan 2024 10:05:06 GMT", "2024-01-31T10:05:06.000"),
        ("Jan 31, 2024 10:05 PM", "2024-01-31T22:05:00.000"),
        ("31. Dezember 2024", "2024-12-31T00:00:00.000"),
        ("Thu Jul 21 14:05:29 -0700 2016", "2016-07-21T21:05:29.000"),
        ("20240131", "2024-01-31T00:00:00.000"),
        ("20240131100506", "2024-01-31T10:05:06.000"),
        ("1706695506", "2024-01-31T10:05:06.000"),
        (1706695506, "2024-01-31T10:05:06.000"),
        (1706695506.25, "2024-01-31T10:05:06.250"),
        ("1706695506789", "2024-01-31T10:05:06.789"),
        ("1706695506789123", "2024-01-31T10:05:06.789"),
        ("1706695506789123456", "2024-01-31T10:05:06.789"),
        ("1706695506.0", "2024-01-31T10:05:06.000"),  # pandas, where some are missing
        (20240131.0, "2024-01-31T00:00:00.000"),
        (45322.5, "2024-01-31T12:00:00.000"),  # a number of Excel
        (dt.datetime(2024, 1, 31, 10, 5), "2024-01-31T10:05:00.000"),
        (dt.date(2024, 1, 31), "2024-01-31T00:00:00.000"),
    ],
)
def test_times_are_understood(text: Any, expected: str) -> None:
    assert read(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "13", "12:30", "1.5", "99999999999", True])
def test_other_texts_are_no_times(text: Any) -> None:
    assert moment_format([text]) is None


@pytest.mark.parametrize("text", ["2024-13-01", "2024-02-30", "2024-01-31 25:00", "31.1.2024", "x"])
def test_a_wrong_time_in_a_column_of_times_is_refused(text: str) -> None:
    form = moment_format(["2024-01-31 10:00"] * 20 + [text])
    assert form is not None
    with pytest.raises(ValueError, match=r"."):
        MomentReader(form, UTC)(text)


def test_the_whole_sample_decides_between_day_and_month() -> None:
    days_first = moment_format(["1/2/2024", "3/4/2024", "31/1/2024"])
    months_first = moment_format(["1/2/2024", "3/4/2024", "1/31/2024"])
    assert days_first is not None and MomentReader(days_first, UTC)("1/2/2024") == 1706745600000
    assert months_first is not None and MomentReader(months_first, UTC)("1/2/2024") == 1704153600000


def test_unclear_dates_are_refused_until_their_order_is_given() -> None:
    with pytest.raises(UnclearTimes, match="--date-order"):
        moment_format(["1/2/2024", "12/12/2024"])
    assert read("1/2/2024", order="dmy").startswith("2024-02-01")
    assert read("1/2/2024", order="mdy").startswith("2024-01-02")
    with pytest.raises(UnclearTimes, match="cannot be read as dmy: 1/31/2024"):
        moment_format(["1/2/2024", "1/31/2024"], "dmy")
    with pytest.raises(UnclearTimes, match="in one order"):
        moment_format(["1/31/2024", "31/1/2024"])


def test_dates_that_excel_has_read_in_part_are_refused() -> None:
    """Excel turns 1/2/2024 into a date and leaves 31/1/2024 a text, where months come first."""
    mixed = [dt.datetime(2024, 1, 2), dt.datetime(2024, 3, 4), "31/1/2024", "28/2/2024"]
    with pytest.raises(UnclearTimes, match="several ways"):
        moment_format(mixed)


def test_local_times_follow_the_zone() -> None:
    assert read("2024-01-31 10:00", BERLIN) == "2024-01-31T09:00:00.000"
    assert read("2024-07-31 10:00", BERLIN) == "2024-07-31T08:00:00.000"
    assert read("2024-07-31T10:00:00Z", BERLIN) == "2024-07-31T10:00:00.000"
    assert read("1706695506", BERLIN) == "2024-01-31T10:05:06.000"
    # The hour that comes twice is taken as its first.
    assert read("2024-10-27 02:30", BERLIN) == "2024-10-27T00:30:00.000"


moments = st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2099, 12, 31))
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"])


@given(moments, zones, st.sampled_from(["%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M:%S", "%Y%m%d%H%M%S"]))
def test_written_times_are_read_as_they_were(at: dt.datetime, zone: str, style: str) -> None:
    local = at.replace(microsecond=0)
    form = moment_format([local.strftime(style)])
    assert form is not None
    expected = local.replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000
    assert MomentReader(form, ZoneInfo(zone))(local.strftime(style)) == expected
