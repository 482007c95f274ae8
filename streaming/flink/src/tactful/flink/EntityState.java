package tactful.flink;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** State of all features of one entity, for one event after the other. */
final class EntityState {
    final EntityLayout layout;
    long newest; // time of the newest event, epoch milliseconds
    long horizon; // what ended before is over for good
    /** By aggregate: its cells by group, one under "" without groups. */
    final List<Map<String, Cell>> cells = new ArrayList<>();

    EntityState(EntityLayout layout) {
        this.layout = layout;
        layout.aggregates.forEach(any -> cells.add(new HashMap<>()));
    }

    /** Columns of the entity, or of one of its groups. */
    static final class Cell {
        long newest = -1;
        final EntityColumn[] columns;

        Cell(EntityLayout.Aggregate aggregate) {
            columns = new EntityColumn[aggregate.columns.size()];
            for (int number = 0; number < columns.length; number++) {
                columns[number] = EntityColumn.of(aggregate.columns.get(number));
            }
        }
    }

    /** Counts an event; {@code horizon} is the watermark before it less the allowed lateness. */
    void apply(EntityEvent event, long latenessMs) {
        newest = Math.max(newest, event.timestamp);
        horizon = Math.max(horizon, event.watermark - latenessMs);
        for (int number = 0; number < event.aggregates.length; number++) {
            count(event.aggregates[number], event, event.watermark - latenessMs, number);
        }
    }

    private void count(int place, EntityEvent event, long horizonBefore, int number) {
        EntityLayout.Aggregate aggregate = layout.aggregates.get(place);
        if (!aggregate.isInTime(event.timestamp, horizonBefore)) {
            return;
        }
        Map<String, Cell> groups = cells.get(place);
        String text = event.texts[number];
        Cell cell = groups.computeIfAbsent(aggregate.grouped ? text : "", any -> new Cell(aggregate));
        cell.newest = Math.max(cell.newest, event.timestamp);
        for (EntityColumn column : cell.columns) {
            column.apply(event.timestamp, event.watermark, horizonBefore, event.amounts[number], text);
        }
        if (aggregate.grouped && groups.size() > aggregate.maxGroups) {
            evict(groups);
        }
    }

    /** Removes the group with the oldest newest event; of equals, that with the least text. */
    private static void evict(Map<String, Cell> groups) {
        String oldest = null;
        long when = Long.MAX_VALUE;
        for (Map.Entry<String, Cell> group : groups.entrySet()) {
            long newest = group.getValue().newest;
            if (newest < when || newest == when && compare(group.getKey(), oldest) < 0) {
                oldest = group.getKey();
                when = newest;
            }
        }
        groups.remove(oldest);
    }

    /** The order of code points, as in Python; Java's own is that of UTF-16. */
    static int compare(String left, String right) {
        int a = 0;
        int b = 0;
        while (a < left.length() && b < right.length()) {
            int x = left.codePointAt(a);
            int y = right.codePointAt(b);
            if (x != y) {
                return Integer.compare(x, y);
            }
            a += Character.charCount(x);
            b += Character.charCount(y);
        }
        return Integer.compare(left.length() - a, right.length() - b);
    }
}
