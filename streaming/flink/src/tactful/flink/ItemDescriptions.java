package tactful.flink;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** The last descriptions of one item by time, and the category of the one that came last. */
final class ItemDescriptions {
    private static final int MOST = 8;

    String category; // of the description that came last
    private final List<Description> known = new ArrayList<>();

    /** One description. */
    static final class Description {
        long timestamp;
        final Map<String, Object> values = new HashMap<>(); // by source without "item."
    }

    /** Adds a description that comes now; of its properties those {@code wanted}. */
    void add(LogEntry item, Set<String> wanted) throws LogEntry.Invalid {
        Description added = new Description();
        added.timestamp = item.timestamp();
        wanted.forEach(name -> added.values.put(name, item.properties.get(name)));
        for (String name : new String[] {"title", "category", "price"}) {
            Object value = item.fields.get(name);
            added.values.put(name, value instanceof Long ? ((Long) value).doubleValue() : value);
        }
        added.values.put("available", Boolean.TRUE); // neither a text nor a number
        category = item.text("category");
        int place = known.size();
        while (place > 0 && known.get(place - 1).timestamp > added.timestamp) {
            place--;
        }
        known.add(place, added);
        if (known.size() > MOST) {
            known.remove(0);
        }
    }

    /** The value of a source at a time; null without one. */
    Object at(long timestamp, String name) {
        for (int place = known.size() - 1; place >= 0; place--) {
            if (known.get(place).timestamp <= timestamp) {
                return known.get(place).values.get(name);
            }
        }
        return null;
    }

    byte[] stored() {
        MessagePack.Writer to = new MessagePack.Writer();
        write(to, category);
        to.array(known.size());
        for (Description description : known) {
            to.integer(description.timestamp);
            to.map(description.values.size());
            description.values.forEach((name, value) -> {
                to.text(name);
                write(to, value);
            });
        }
        return to.toBytes();
    }

    static ItemDescriptions of(byte[] stored) {
        ItemDescriptions item = new ItemDescriptions();
        if (stored == null) {
            return item;
        }
        MessagePack.Reader from = new MessagePack.Reader(stored);
        item.category = (String) read(from);
        for (int left = from.array(); left > 0; left--) {
            Description description = new Description();
            description.timestamp = from.integer();
            for (int values = from.map(); values > 0; values--) {
                description.values.put(from.text(), read(from));
            }
            item.known.add(description);
        }
        return item;
    }

    /** Writes a value with its type: a text, a whole or broken number; anything else is nothing. */
    private static void write(MessagePack.Writer to, Object value) {
        if (value instanceof String) {
            to.text("t" + value);
        } else if (value instanceof Long || value instanceof BigInteger) {
            to.text("i" + value);
        } else if (value instanceof Double) {
            to.text("f" + value);
        } else {
            to.text("");
        }
    }

    private static Object read(MessagePack.Reader from) {
        String text = from.text();
        if (text.isEmpty()) {
            return null;
        }
        String value = text.substring(1);
        switch (text.charAt(0)) {
            case 't':
                return value;
            case 'i':
                BigInteger whole = new BigInteger(value);
                return whole.bitLength() < 64 ? (Object) whole.longValue() : whole;
            default:
                return Double.valueOf(value);
        }
    }
}
