package tactful.flink;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/**
 * The packed value of an entity, which servers and workers read with the engine's own code: see
 * {@code tactful_streaming/windows/packed_entity.py} for its form.
 */
final class PackedEntity {
    private PackedEntity() {}

    static byte[] pack(EntityState state) {
        MessagePack.Writer body = new MessagePack.Writer();
        body.text("");
        body.integer(state.newest);
        int entries = 1;
        for (int number = 0; number < state.cells.size(); number++) {
            EntityLayout.Aggregate aggregate = state.layout.aggregates.get(number);
            Map<String, EntityState.Cell> cells = state.cells.get(number);
            if (aggregate.grouped) {
                if (aggregate.memory != null) {
                    cells.values().removeIf(cell -> cell.newest + aggregate.memory <= state.horizon);
                }
                entries += packGroups(body, aggregate, cells, state.horizon);
            } else if (!cells.isEmpty()) {
                entries += packCell(body, aggregate, cells.get(""), state.horizon);
            }
        }
        MessagePack.Writer packed = new MessagePack.Writer();
        packed.map(entries);
        packed.append(body);
        return packed.toBytes();
    }

    private static int packCell(
            MessagePack.Writer body, EntityLayout.Aggregate aggregate, EntityState.Cell cell, long horizon) {
        int entries = 0;
        for (int number = 0; number < cell.columns.length; number++) {
            double[] records = cell.columns[number].records(horizon);
            if (records == null) {
                MessagePack.Writer object = new MessagePack.Writer();
                if (cell.columns[number].write(object, horizon)) {
                    body.text(aggregate.columns.get(number).key);
                    body.append(object);
                    entries++;
                }
            } else if (records.length > 0) {
                body.text(aggregate.columns.get(number).key);
                body.binary(bytes(List.of(records)));
                entries++;
            }
        }
        return entries;
    }

    private static int packGroups(
            MessagePack.Writer body, EntityLayout.Aggregate aggregate, Map<String, EntityState.Cell> groups,
            long horizon) {
        if (groups.isEmpty()) {
            return 0;
        }
        body.text(aggregate.key);
        body.array(2);
        body.array(groups.size());
        ByteBuffer newest = buffer(8 * groups.size());
        groups.forEach((group, cell) -> {
            body.text(group);
            newest.putLong(cell.newest);
        });
        body.binary(newest.array());
        int entries = 1;
        for (int number = 0; number < aggregate.columns.size(); number++) {
            EntityLayout.Column column = aggregate.columns.get(number);
            boolean recorded = EntityColumn.isRecorded(column);
            entries += recorded
                    ? packRecords(body, column, number, groups, horizon)
                    : packObjects(body, column, number, groups, horizon);
        }
        return entries;
    }

    private static int packRecords(
            MessagePack.Writer body, EntityLayout.Column column, int number, Map<String, EntityState.Cell> groups,
            long horizon) {
        List<double[]> records = new ArrayList<>();
        ByteBuffer counts = buffer(2 * groups.size());
        for (EntityState.Cell cell : groups.values()) {
            double[] own = cell.columns[number].records(horizon);
            records.add(own);
            counts.putShort((short) (own.length / EntityColumn.width(column)));
        }
        byte[] data = bytes(records);
        if (data.length == 0) {
            return 0;
        }
        body.text(column.key);
        body.array(2);
        body.binary(counts.array());
        body.binary(data);
        return 1;
    }

    private static int packObjects(
            MessagePack.Writer body, EntityLayout.Column column, int number, Map<String, EntityState.Cell> groups,
            long horizon) {
        MessagePack.Writer objects = new MessagePack.Writer();
        boolean any = false;
        objects.array(groups.size());
        for (EntityState.Cell cell : groups.values()) {
            any |= cell.columns[number].write(objects, horizon);
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
                readGroups(from, aggregate, state.cells.get(place[0]), ordered.get(place[0]));
                continue;
            }
            if (aggregate.grouped) {
                readColumn(from, aggregate.columns.get(place[1]), place[1], ordered.get(place[0]));
                continue;
            }
            EntityState.Cell cell = state.cells.get(place[0])
                    .computeIfAbsent("", any -> new EntityState.Cell(aggregate));
            if (EntityColumn.isRecorded(aggregate.columns.get(place[1]))) {
                cell.columns[place[1]].restore(numbers(from.binary()));
            } else {
                cell.columns[place[1]].read(from);
            }
        }
        return state;
    }

    private static void readGroups(
            MessagePack.Reader from, EntityLayout.Aggregate aggregate, Map<String, EntityState.Cell> groups,
            List<EntityState.Cell> ordered) {
        from.array();
        for (int left = from.array(); left > 0; left--) {
            EntityState.Cell cell = new EntityState.Cell(aggregate);
            groups.put(from.text(), cell);
            ordered.add(cell);
        }
        ByteBuffer newest = ByteBuffer.wrap(from.binary()).order(ByteOrder.LITTLE_ENDIAN);
        ordered.forEach(cell -> cell.newest = newest.getLong());
    }

    private static void readColumn(
            MessagePack.Reader from, EntityLayout.Column column, int number, List<EntityState.Cell> ordered) {
        from.array();
        if (!EntityColumn.isRecorded(column)) {
            from.array();
            ordered.forEach(cell -> cell.columns[number].read(from));
            from.nil();
            return;
        }
        ByteBuffer counts = ByteBuffer.wrap(from.binary()).order(ByteOrder.LITTLE_ENDIAN);
        double[] records = numbers(from.binary());
        int begin = 0;
        for (EntityState.Cell cell : ordered) {
            int end = begin + (counts.getShort() & 0xffff) * EntityColumn.width(column);
            cell.columns[number].restore(Arrays.copyOfRange(records, begin, end));
            begin = end;
        }
    }

    private static byte[] bytes(List<double[]> records) {
        ByteBuffer data = buffer(8 * records.stream().mapToInt(own -> own.length).sum());
        for (double[] own : records) {
            for (double number : own) {
                data.putDouble(number);
            }
        }
        return data.array();
    }

    private static double[] numbers(byte[] data) {
        double[] numbers = new double[data.length / 8];
        ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN).asDoubleBuffer().get(numbers);
        return numbers;
    }

    private static ByteBuffer buffer(int size) {
        return ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
    }
}
