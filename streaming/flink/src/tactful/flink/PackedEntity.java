package tactful.flink;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;

/**
 * The packed value of an entity, which servers and workers read with the engine's own code: see
 * {@code tactful_streaming/windows/packed_entity.py} for its form.
 *
 * <p>One object packs many values one after the other, and uses its memory again.
 */
final class PackedEntity {
    private final MessagePack.Writer packed = new MessagePack.Writer();
    private final MessagePack.Writer body = new MessagePack.Writer();
    private final MessagePack.Writer objects = new MessagePack.Writer();
    private final PackedNumbers counts = new PackedNumbers();
    private final PackedNumbers records = new PackedNumbers();
    private final List<EntityState.Cell> cells = new ArrayList<>(); // of the groups, in their order

    byte[] pack(EntityState state) {
        body.cleared().text("");
        body.integer(state.newest);
        int entries = 1;
        for (int number = 0; number < state.cells.size(); number++) {
            Map<String, EntityState.Cell> groups = state.cells.get(number);
            if (groups.isEmpty()) {
                continue;
            }
            EntityLayout.Aggregate aggregate = state.layout.aggregates.get(number);
            entries += aggregate.grouped
                    ? packGroups(aggregate, groups, state.horizon)
                    : packCell(aggregate, groups.get(""), state.horizon);
        }
        packed.cleared().map(entries);
        packed.append(body);
        return packed.toBytes();
    }

    private int packCell(EntityLayout.Aggregate aggregate, EntityState.Cell cell, long horizon) {
        int entries = 0;
        for (int number = 0; number < cell.columns.length; number++) {
            EntityLayout.Column column = aggregate.columns.get(number);
            records.clear();
            if (!column.isRecorded) {
                if (cell.columns[number].write(objects.cleared(), horizon)) {
                    body.text(column.key);
                    body.append(objects);
                    entries++;
                }
            } else if (cell.columns[number].pack(records, column.oldest(horizon)) > 0) {
                body.text(column.key);
                records.write(body);
                entries++;
            }
        }
        return entries;
    }

    /** Packs an aggregate with groups, of which those that are over are removed. */
    private int packGroups(
            EntityLayout.Aggregate aggregate, Map<String, EntityState.Cell> groups, long horizon) {
        cells.clear();
        records.clear();
        objects.cleared();
        for (Iterator<Map.Entry<String, EntityState.Cell>> all = groups.entrySet().iterator(); all.hasNext();) {
            Map.Entry<String, EntityState.Cell> group = all.next();
            EntityState.Cell cell = group.getValue();
            if (aggregate.memory != null && cell.newest + aggregate.memory <= horizon) {
                all.remove();
            } else {
                objects.text(group.getKey());
                records.add(cell.newest);
                cells.add(cell);
            }
        }
        if (cells.isEmpty()) {
            return 0;
        }
        body.text(aggregate.key);
        body.array(2);
        body.array(cells.size());
        body.append(objects);
        records.write(body);
        int entries = 1;
        for (int number = 0; number < aggregate.columns.size(); number++) {
            EntityLayout.Column column = aggregate.columns.get(number);
            entries += column.isRecorded
                    ? packRecords(column, number, horizon)
                    : packObjects(column, number, horizon);
        }
        return entries;
    }

    private int packRecords(EntityLayout.Column column, int number, long horizon) {
        counts.clear();
        records.clear();
        long oldest = column.oldest(horizon);
        for (int place = 0; place < cells.size(); place++) {
            int own = cells.get(place).columns[number].pack(records, oldest);
            counts.add((short) (own / column.width));
        }
        if (records.isEmpty()) {
            return 0;
        }
        body.text(column.key);
        body.array(2);
        counts.write(body);
        records.write(body);
        return 1;
    }

    private int packObjects(EntityLayout.Column column, int number, long horizon) {
        boolean any = false;
        objects.cleared().array(cells.size());
        for (int place = 0; place < cells.size(); place++) {
            any |= cells.get(place).columns[number].write(objects, horizon);
        }
        if (!any) {
            return 0;
        }
        body.text(column.key);
        body.array(2);
        body.append(objects);
        body.nil();
        return 1;
    }

    /** Reads what {@link #pack} wrote; state of other definitions is left out. */
    static EntityState unpack(byte[] packed, EntityLayout layout) {
        EntityState state = new EntityState(layout);
        MessagePack.Reader from = new MessagePack.Reader(packed);
        List<List<EntityState.Cell>> ordered = new ArrayList<>();
        layout.aggregates.forEach(any -> ordered.add(new ArrayList<>()));
        for (int left = from.map(); left > 0; left--) {
            String key = from.text();
            if (key.isEmpty()) {
                state.newest = from.integer();
                continue;
            }
            int[] place = layout.places.get(key);
            if (place == null) {
                from.skip();
                continue;
            }
            EntityLayout.Aggregate aggregate = layout.aggregates.get(place[0]);
            if (place[1] < 0) {
                state.cells.set(place[0], readGroups(from, aggregate, ordered.get(place[0])));
                continue;
            }
            EntityLayout.Column column = aggregate.columns.get(place[1]);
            if (aggregate.grouped) {
                readColumn(from, column, place[1], ordered.get(place[0]));
                continue;
            }
            EntityState.Cell cell = state.cells.get(place[0])
                    .computeIfAbsent("", any -> new EntityState.Cell(aggregate));
            if (column.isRecorded) {
                byte[] data = from.binary();
                cell.columns[place[1]].restore(PackedNumbers.doubles(data, 0, data.length / 8));
            } else {
                cell.columns[place[1]].read(from);
            }
        }
        return state;
    }

    private static Map<String, EntityState.Cell> readGroups(
            MessagePack.Reader from, EntityLayout.Aggregate aggregate, List<EntityState.Cell> ordered) {
        from.array();
        int count = from.array();
        Map<String, EntityState.Cell> groups = new HashMap<>(count + count / 2);
        for (int place = 0; place < count; place++) {
            EntityState.Cell cell = new EntityState.Cell(aggregate);
            groups.put(from.text(), cell);
            ordered.add(cell);
        }
        byte[] newest = from.binary();
        for (int place = 0; place < count; place++) {
            ordered.get(place).newest = PackedNumbers.longAt(newest, place);
        }
        return groups;
    }

    private static void readColumn(
            MessagePack.Reader from, EntityLayout.Column column, int number, List<EntityState.Cell> ordered) {
        from.array();
        if (!column.isRecorded) {
            from.array();
            ordered.forEach(cell -> cell.columns[number].read(from));
            from.nil();
            return;
        }
        byte[] counts = from.binary();
        byte[] data = from.binary();
        int begin = 0;
        for (int place = 0; place < ordered.size(); place++) {
            int size = PackedNumbers.shortAt(counts, place) * column.width;
            ordered.get(place).columns[number].restore(PackedNumbers.doubles(data, begin, size));
            begin += 8 * size;
        }
    }
}
