"""Fields that are chosen for a plan one after the other, with remarks on each."""

from __future__ import annotations

from tactful.client import Kind
from tactful.errors import DatasetError
from tactful.imports.amounts import NumberFormat
from tactful.imports.columns import Columns
from tactful.imports.moments import MomentReader, UnclearTimes, moment_format
from tactful.imports.options import (
    FIELDS,
    ImportOptions,
    constants_of,
    targets_of,
    types_given,
    zone_of,
)
from tactful.imports.plan import Guess, Mapped, Plan, Read

_READ: dict[str, Read] = {
    "timestamp": "moment",
    "type": "type",
    "title": "text",
    "category": "text",
    "price": "number",
    "available": "flag",
    "image": "picture",
    "properties.price": "number",
    "properties.quantity": "number",
    "properties.rating": "number",
    "properties.dwell_ms": "number",
    "properties.category": "text",
    "properties.currency": "text",
}


class Draft:
    """Fields chosen so far, and the remarks on them."""

    def __init__(self, columns: Columns, kind: Kind, source: str) -> None:
        """Take what the user gives; `source` says why it is this kind.

        Raises:
            ConfigError: if an option names no field or no column.
            DatasetError: if a column of times, or a constant time, is none.
        """
        options = columns.options
        self.columns = columns
        self.kind = kind
        self.source = source
        self.given = targets_of(options.maps, kind, "--map")
        self.constants = constants_of(options.constants, kind)
        if "timestamp" in self.constants:
            self.constants["timestamp"] = _moment(self.constants["timestamp"], options)
        self.fields: dict[str, Mapped] = {}
        self.remarks: dict[str, str] = {}
        self.notes: list[str] = []
        self._lacks: list[tuple[str, str]] = []
        for target, name in self.given.items():
            if name:
                pair = columns.named(name, f"--map {target}={name}")
                self.fields[target] = columns.mapped(target, pair, self._read_of(target))
                self.remarks[target] = "--map"

    def add(self, target: str, name: str | None, remark: str = "") -> None:
        """Take a field from a column, unless the user has decided about either."""
        if name is None or target in self.given or target in self.constants:
            return
        if name in self.used() and target != "properties.currency":
            return
        self.fields[target] = self.columns.mapped(target, (name,), self._read_of(target))
        if remark:
            self.remarks[target] = remark

    def used(self) -> set[str]:
        """Return the columns that fields come from."""
        return {name for mapped in self.fields.values() for name in mapped.columns}

    def has(self, target: str) -> bool:
        """Whether a field is set in the elements."""
        return target in self.fields or target in self.constants

    def free(self, name: str | None) -> str | None:
        """Return a column if no field comes from it yet."""
        return None if name in self.used() else name

    def lack(self, what: str, remedy: str) -> None:
        """Note that the elements lack something; `finish` says so."""
        self._lacks.append((what, remedy))

    def left_out(self) -> list[str]:
        """Return the columns that are not sent."""
        return [name for name in self.columns.names if name not in self.used()]

    def finish(self, plan: Plan) -> Guess:
        """Return the plan with remarks on times and numbers.

        Raises:
            DatasetError: if the elements lack something.
        """
        if self._lacks:
            what = ", ".join(what for what, _ in self._lacks)
            remedies = ". ".join(remedy for _, remedy in self._lacks)
            raise DatasetError(
                f"{self.columns.path}: cannot be sent as {self.kind} ({self.source}): {what}. Its "
                f"columns are {', '.join(self.columns.names)}. {remedies}"
            )
        self._remark_formats()
        self._remark_unused()
        left_out = [name for name in self.left_out() if name != plan.guest]
        return Guess(plan, self.source, self.remarks, left_out, self.notes)

    def _read_of(self, target: str) -> Read:
        return _READ.get(target, "id" if target in FIELDS[self.kind] else "value")

    def _remark_formats(self) -> None:
        for target, mapped in self.fields.items():
            remarks = [self.remarks[target]] if target in self.remarks else []
            if mapped.moment is not None:
                zone = self.columns.options.time_zone
                where = f"in {zone}" if zone else "as UTC (--time-zone for local times)"
                remarks.append(mapped.moment.about)
                remarks += [] if mapped.moment.zoned else [where]
            if mapped.number is not None:
                remarks += self._remark_on_number(mapped.columns[0], mapped.number)
            if mapped.whole:
                remarks.append("without .0")
            if remarks:
                self.remarks[target] = ", ".join(remarks)

    def _remark_unused(self) -> None:
        """Note options that change nothing, which may be mistakes."""
        options, mapped = self.columns.options, self.fields.get("timestamp")
        form = mapped.moment if mapped is not None else None
        if options.date_order and (form is None or form.style != "numeric"):
            self.notes.append("--date-order has no effect: no date is written with numbers only")
        if options.time_zone and form is not None and form.zoned:
            self.notes.append("--time-zone has no effect: the times say their offset from UTC")
        if options.types:
            type_ = self.fields.get("type")
            cells = self.columns.cells(type_.columns[0]) if type_ is not None else []
            words = {str(cell).strip() for cell in cells}
            for word in types_given(options.types):
                if word not in words:
                    self.notes.append(f"--map-type: no sampled row has the word {word!r}")

    def _remark_on_number(self, name: str, form: NumberFormat) -> list[str]:
        sign = "comma" if form.decimal == "," else "point"
        if not form.sure:
            return [f"read with a decimal {sign} (--decimal)"]
        return [f"decimal {sign}"] if self.columns.has_comma(name) else []


def _moment(text: str, options: ImportOptions) -> int:
    """Return the time of ``--set timestamp`` in epoch milliseconds."""
    try:
        form = moment_format([text], options.date_order)
    except UnclearTimes as error:
        raise DatasetError(f"--set timestamp: times {error}") from error
    if form is None:
        raise DatasetError(f"--set timestamp={text}: is no time such as 2026-01-31T10:00:00Z")
    return MomentReader(form, zone_of(options.time_zone))(text)
