"""Google Merchant product feeds in XML: RSS 2.0 and Atom.

The file is parsed as a stream. A document type declaration is rejected, so there are no entities to
expand and no other file is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from xml.parsers import expat

from tactful.errors import DatasetError
from tactful.imports.formats.rows import Column, Place, Rows, WholeFileReader, as_columns, names_of
from tactful.imports.formats.text_file import TextFile

_CHUNK = 64 * 1024
_SAMPLED_PRODUCTS = 5_000
_MAX_PRODUCT = 1024 * 1024  # characters of text in one product
_MAX_DEPTH = 16

Product = dict[str, str | list[str]]


class ProductFeedReader(WholeFileReader):
    """Reader of the products of an RSS or Atom feed; its columns are Google's attributes."""

    def __init__(self, text: TextFile) -> None:
        """Find the attributes of the first products.

        Raises:
            DatasetError: if the file is damaged, or has no products.
        """
        super().__init__(text.path, "product feed in XML")
        self.holds = "items"
        self._text = text
        self._sampled = list(islice(self._products(), _SAMPLED_PRODUCTS))
        if not self._sampled:
            raise DatasetError(
                f"{text.path}: has no <item> or <entry>: only product feeds are read from XML"
            )
        self.columns = names_of(self._sampled)

    def sample(self) -> list[Column]:
        """Return the first products."""
        return as_columns(self._sampled, self.columns)

    def _read(self, skip: int, count: int) -> Iterator[Rows]:
        products = islice(self._products(), skip, None)
        number = skip
        while block := list(islice(products, count)):
            numbers = range(number + 1, number + len(block) + 1)
            number += len(block)
            yield Rows(as_columns(block, self.columns), numbers, Place(number))

    def _products(self) -> Iterator[Product]:
        parser = _Parser(self.path)
        with self._text.open() as file:
            while chunk := file.read(_CHUNK):
                yield from parser.feed(chunk)
            yield from parser.feed(b"", ended=True)


class _Parser:
    """Collects products from the events of expat."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done: list[Product] = []
        self._product: Product | None = None
        self._names: list[str] = []  # open elements within the product
        self._text: list[str] = []
        self._size = 0
        parser = self._expat = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse

    def feed(self, chunk: bytes, *, ended: bool = False) -> list[Product]:
        """Parse a part of the document, and return the products that ended in it."""
        try:
            self._expat.Parse(chunk, ended)
        except DatasetError:  # of the handlers
            raise
        except (expat.ExpatError, LookupError, ValueError) as error:  # also of unknown encodings
            raise DatasetError(f"{self._path}: is no well-formed XML: {error}") from error
        done, self._done = self._done, []
        return done

    def _start(self, element: str, attributes: dict[str, str]) -> None:
        name = _local(element)
        if self._product is None:
            if name in ("item", "entry"):
                self._product, self._size = {}, 0
            return
        self._names.append(name)
        if len(self._names) > _MAX_DEPTH:
            raise DatasetError(f"{self._path}: {self._where()}: nested too deeply")
        self._text.clear()
        if name == "link" and "href" in attributes:  # of Atom
            self._text.append(attributes["href"])

    def _end(self, element: str) -> None:
        if self._product is None:
            return
        if not self._names:
            self._done.append(self._product)
            self._product = None
            return
        text = "".join(self._text).strip()
        name = ".".join(self._names)
        self._names.pop()
        self._text.clear()
        if text:
            before = self._product.get(name)
            if before is None:
                self._product[name] = text
            else:  # repeated, such as additional_image_link
                self._product[name] = [*([before] if isinstance(before, str) else before), text]

    def _data(self, text: str) -> None:
        if self._names:
            self._size += len(text)
            if self._size > _MAX_PRODUCT:
                raise DatasetError(f"{self._path}: {self._where()}: a product is too long")
            self._text.append(text)

    def _refuse(self, *_: object) -> None:
        raise DatasetError(
            f"{self._path}: {self._where()}: a document type declaration is not accepted in a "
            "feed, since entities can expand without end: remove it"
        )

    def _where(self) -> str:
        return f"line {self._expat.CurrentLineNumber}"


def _local(element: str) -> str:
    """Return a name without its prefix: ``g:price`` is ``price``."""
    return element.rpartition(":")[2]
