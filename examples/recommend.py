"""Talk to a server: send a small shop, let somebody shop, ask for recommendations.

Start one first: ``tactful serve --dev``. Then: ``python examples/recommend.py [URL]``.
"""

import sys
import time
import uuid

from tactful.client import Client

SHOP = {
    "tea": ("drinks", 3.5),
    "coffee": ("drinks", 6.0),
    "cup": ("kitchen", 8.0),
    "kettle": ("kitchen", 35.0),
    "biscuits": ("food", 2.0),
}
VISITS = [["tea", "biscuits"], ["tea", "cup"], ["coffee", "cup", "kettle"], ["tea", "biscuits"]]


def main(url: str) -> None:
    """Run the example against the server at `url`."""
    with Client(url) as client:
        client.items(
            {"item_id": item, "category": category, "price": price}
            for item, (category, price) in SHOP.items()
        )
        # New items come into lists once a second.
        while client.models()["items"] < len(SHOP):
            time.sleep(0.1)
        now = int(time.time() * 1000)
        sent = client.events(
            {
                "event_id": str(uuid.uuid4()),
                "type": "add_to_cart",
                "timestamp": now + place,
                "user_id": f"shopper-{number}",
                "session_id": f"visit-{number}",
                "item_id": item,
            }
            for number, visit in enumerate(VISITS)
            for place, item in enumerate(visit)
        )
        print(f"{sent.accepted} events accepted, {len(sent.rejected)} rejected")
        # `after` makes the answer wait until it has seen what was just sent.
        answer = client.recommend(user_id="shopper-0", count=3, after=sent.position)
        for item in answer.items:
            print(f"{item.item_id:10} {item.score:.3f}  found by: {item.channel}")
        if answer.fallback:
            print(answer.fallback)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8420")
