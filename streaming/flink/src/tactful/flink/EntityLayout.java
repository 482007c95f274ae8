package tactful.flink;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;

/** What the packed value of one kind of entity consists of, as the definitions say. */
final class EntityLayout {
    final String kind;
    final Long memory; // milliseconds after its newest event in which an entity counts; null: no limit
    final List<Aggregate> aggregates = new ArrayList<>();
    /** Places of aggregates and columns by their keys: (aggregate, column), column -1 for groups. */
    final Map<String, int[]> places = new HashMap<>();

    EntityLayout(JsonNode spec) {
        kind = spec.get("kind").asText();
        memory = optional(spec, "memory_ms");
        for (JsonNode one : spec.get("aggregates")) {
            Aggregate aggregate = new Aggregate(one);
            int number = aggregates.size();
            places.put(aggregate.key, new int[] {number, -1});
            for (int column = 0; column < aggregate.columns.size(); column++) {
                places.put(aggregate.columns.get(column).key, new int[] {number, column});
            }
            aggregates.add(aggregate);
        }
    }

    static Long optional(JsonNode spec, String name) {
        return spec.hasNonNull(name) ? spec.get(name).asLong() : null;
    }

    /** Events of one source, counted once for all features of it. */
    static final class Aggregate {
        final String key;
        final String amounts; // source of the number; null: none is read
        final String texts; // source of the text; null: none is read
        final boolean grouped;
        final int maxGroups;
        final Long memory;
        final List<Column> columns = new ArrayList<>();
        private final Set<String> types = new HashSet<>();
        private final boolean custom;
        private final boolean always; // whether some feature counts events of any age
        private final List<Window> windows = new ArrayList<>();

        Aggregate(JsonNode spec) {
            key = spec.get("key").asText();
            amounts = spec.hasNonNull("amounts") ? spec.get("amounts").asText() : null;
            texts = spec.hasNonNull("texts") ? spec.get("texts").asText() : null;
            grouped = spec.get("grouped").asBoolean();
            maxGroups = spec.get("max_groups").asInt();
            memory = optional(spec, "memory_ms");
            custom = spec.get("custom").asBoolean();
            always = spec.get("always").asBoolean();
            spec.get("events").forEach(type -> types.add(type.asText()));
            spec.get("windows").forEach(window -> windows.add(new Window(window)));
            spec.get("columns").forEach(column -> columns.add(new Column(column)));
        }

        /** Whether it counts events of a type; {@code apart} are no custom ones. */
        boolean counts(String type, Set<String> apart) {
            return types.contains(type) || custom && type.startsWith("x.") && !apart.contains(type);
        }

        /** Whether an event is in time for any feature. */
        boolean isInTime(long timestamp, long horizon) {
            if (always || timestamp > horizon) {
                return true;
            }
            for (Window window : windows) {
                if (Math.floorDiv(timestamp, window.slide) >= window.oldest(horizon)) {
                    return true;
                }
            }
            return false;
        }
    }

    /** One kind of state. */
    static final class Column {
        final String key;
        final String type; // panes, decayed, last_time, last_n, accumulators or sessions
        final String fold; // kind of numbers or accumulators
        final List<Window> windows = new ArrayList<>();
        final long length; // slide, half-life or gap in milliseconds
        final int most; // values of last_n, texts of a session
        final boolean isRecorded; // whether it packs as records of numbers
        final int width; // numbers of such a record

        Column(JsonNode spec) {
            key = spec.get("key").asText();
            type = spec.get("type").asText();
            fold = spec.get("fold").asText();
            length = spec.get("length").asLong();
            most = spec.get("most").asInt();
            isRecorded = type.equals("panes") || type.equals("decayed") || type.equals("last_time");
            width = type.equals("last_time") ? 1 : 2;
            spec.get("windows").forEach(window -> windows.add(new Window(window)));
        }

        /** The oldest pane in a window that is not yet over. */
        long oldest(long horizon) {
            long oldest = Long.MAX_VALUE;
            for (Window window : windows) {
                oldest = Math.min(oldest, window.oldest(horizon));
            }
            return oldest;
        }
    }

    /** A window of panes; with a period, it begins anew at each. */
    static final class Window {
        final long slide;
        final long panes; // panes of the window, or of a period
        final long period; // milliseconds; 0: none

        Window(JsonNode spec) {
            slide = spec.get("slide").asLong();
            panes = spec.get("panes").asLong();
            period = spec.get("period").asLong();
        }

        long oldest(long horizon) {
            return period > 0
                    ? Math.floorDiv(horizon, period) * panes
                    : Math.floorDiv(horizon, slide) - panes + 1;
        }
    }
}
