"""Pictures of items, for pages."""

import pytest

from tactful.client.messages import CatalogueItem
from tactful_ui.components.items import picture_of

TEA = "https://shop.example/tea.png"


@pytest.mark.parametrize(
    ("image", "properties", "address"),
    [
        (TEA, {}, TEA),
        (TEA, {"image": "https://shop.example/old.png"}, TEA),
        ("sha256:" + "0" * 64, {}, None),
        ("sha256:" + "0" * 64, {"thumbnail": [TEA]}, TEA),
        ("javascript:alert(1)", {"picture": "no address"}, None),
    ],
)
def test_the_address_of_a_picture(
    image: str, properties: dict[str, str | list[str]], address: str | None
) -> None:
    item = CatalogueItem(item_id="tea", timestamp=0, image=image, properties={**properties})
    assert picture_of(item) == address
