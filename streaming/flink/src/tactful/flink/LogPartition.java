package tactful.flink;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.BiConsumer;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.StateTtlConfig;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.runtime.state.KeyGroupRangeAssignment;
import org.apache.flink.streaming.api.functions.co.KeyedBroadcastProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;

/**
 * Reads a partition of the log in order, as the engine does: admits each event once, keeps time, and
 * sends it to the entities that count it. Marks follow, by which these know how far the log was read.
 */
final class LogPartition extends KeyedBroadcastProcessFunction<Integer, LogRecord, LogRecord, EntityEvent> {
    private static final long serialVersionUID = 1L;
    private static final long DAY = 86_400_000;
    private static final String PERSONALISATION = "personalisation";
    private static final String DEVICE = "device:";
    static final MapStateDescriptor<String, String> ERASED =
            new MapStateDescriptor<>("erased", Types.STRING, Types.STRING);
    // Made once: Flink looks through the class by reflection, which took a sixth of the job's time.
    private static final TypeInformation<EntityEvent> EVENTS = Types.POJO(EntityEvent.class);
    private static final ValueStateDescriptor<long[]> TIME =
            new ValueStateDescriptor<>("time", PrimitiveArrayTypeInfo.LONG_PRIMITIVE_ARRAY_TYPE_INFO);

    private final String json;
    private transient EntitySpec spec;
    private transient Set<String> erased;
    private transient ValueState<long[]> time;
    private transient MapState<String, Integer> ids;
    private transient MapState<String, byte[]> items;
    private transient Map<Integer, Long> marked; // time of the last mark of each partition
    private transient Set<Integer> pending; // partitions with a timer for a mark
    private transient List<String> markKeys;
    private transient long forgotten; // offset in the topic of the erased, behind the last end of some

    LogPartition(String json) {
        this.json = json;
    }

    /** The output with the events of one kind of entity. */
    static OutputTag<EntityEvent> tag(String kind) {
        return new OutputTag<>(kind, EVENTS);
    }

    @Override
    public void open(OpenContext context) {
        spec = new EntitySpec(json);
        erased = new HashSet<>(ErasedTopic.people(spec));
        marked = new HashMap<>();
        pending = new HashSet<>();
        time = getRuntimeContext().getState(TIME);
        MapStateDescriptor<String, Integer> days = new MapStateDescriptor<>("ids", Types.STRING, Types.INT);
        if (spec.dedupeDays > 0) {
            // Longer than events need, as their time and the clock may differ after an outage.
            days.enableTimeToLive(StateTtlConfig.newBuilder(Duration.ofDays(2L * spec.dedupeDays + 7)).build());
        }
        ids = getRuntimeContext().getMapState(days);
        items = getRuntimeContext().getMapState(new MapStateDescriptor<>(
                "items", Types.STRING, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO));
        int subtasks = getRuntimeContext().getTaskInfo().getNumberOfParallelSubtasks();
        int most = getRuntimeContext().getTaskInfo().getMaxNumberOfParallelSubtasks();
        markKeys = new ArrayList<>();
        for (int subtask = 0, number = 0; subtask < subtasks; number++) {
            String key = "@" + number;
            if (KeyGroupRangeAssignment.assignKeyToParallelOperator(key, most, subtasks) == subtask) {
                markKeys.add(key);
                subtask++;
                number = -1;
            }
        }
    }

    @Override
    public void processElement(LogRecord record, ReadOnlyContext context, Collector<EntityEvent> out)
            throws Exception {
        EventTime now = new EventTime(spec.delayMs, time.value());
        now.next = record.offset + 1;
        try {
            read(LogEntry.of(record.value, spec.properties), now, record, context);
        } catch (LogEntry.Invalid invalid) {
            // It counts for nothing, and moves no time.
        }
        time.update(now.stored());
        if (spec.ends != null) {
            return; // the end of the log needs no marks
        }
        long clock = context.timerService().currentProcessingTime();
        long due = marked.getOrDefault(record.partition, 0L) + spec.publishMs;
        if (clock >= due) {
            mark(record.partition, now, clock, context::output);
        } else if (pending.add(record.partition)) {
            context.timerService().registerProcessingTimeTimer(due);
        }
    }

    @Override
    public void onTimer(long timestamp, OnTimerContext context, Collector<EntityEvent> out) throws Exception {
        int partition = context.getCurrentKey();
        pending.remove(partition);
        mark(partition, new EventTime(spec.delayMs, time.value()), timestamp, context::output);
    }

    private void mark(int partition, EventTime now, long clock, BiConsumer<OutputTag<EntityEvent>, EntityEvent> out) {
        marked.put(partition, clock);
        for (EntityLayout layout : spec.entities) {
            for (int subtask = 0; subtask < markKeys.size(); subtask++) {
                EntityEvent mark = new EntityEvent();
                mark.what = EntityEvent.MARK;
                mark.key = markKeys.get(subtask);
                mark.partition = partition;
                mark.next = now.next;
                mark.watermark = now.watermark;
                mark.subtask = subtask;
                mark.subtasks = markKeys.size();
                mark.forgotten = forgotten;
                out.accept(tag(layout.kind), mark);
            }
        }
    }

    @Override
    public void processBroadcastElement(LogRecord row, Context context, Collector<EntityEvent> out)
            throws Exception {
        if (row.key == null || row.value == null) {
            return;
        }
        String hash = new String(row.key, StandardCharsets.UTF_8);
        String kind = new String(row.value, StandardCharsets.UTF_8);
        if (kind.equals(ErasedTopic.END)) {
            forgotten = row.offset + 1;
            if (spec.ends == null) {
                long clock = context.currentProcessingTime();
                context.applyToKeyedState(TIME, (partition, state) ->
                        mark(partition, new EventTime(spec.delayMs, state.value()), clock, context::output));
            }
            return;
        }
        if (kind.equals("user")) {
            erased.add(hash);
        }
        for (EntityLayout layout : spec.entities) {
            if (layout.kind.equals(kind)) {
                context.applyToKeyedState(TIME, (partition, state) -> {
                    EntityEvent erase = new EntityEvent();
                    erase.what = EntityEvent.ERASE;
                    erase.key = partition + ":" + hash;
                    erase.partition = partition;
                    context.output(tag(kind), erase);
                });
            }
        }
    }

    private void read(LogEntry entry, EventTime now, LogRecord record, ReadOnlyContext context) throws Exception {
        switch (entry.kind()) {
            case "tick":
                now.advance(entry.timestamp(), -1);
                break;
            case "item":
                describe(entry);
                break;
            case "restricted":
                entry.timestamp();
                if (entry.event == null || entry.purposes == null || !"event".equals(entry.event.kind())) {
                    throw new LogEntry.Invalid();
                }
                count(entry.event, entry.purposes.contains(PERSONALISATION), now, record, context);
                break;
            case "event":
                count(entry, true, now, record, context);
                break;
            default:
                break; // users, links and what other partitions were sent
        }
    }

    private void describe(LogEntry item) throws Exception {
        String id = item.required("item_id");
        for (String name : new String[] {"title", "category"}) {
            if (item.fields.get(name) != null) {
                item.required(name);
            }
        }
        Object price = item.fields.get("price");
        if (price != null && Double.isNaN(LogEntry.asAmount(price))) {
            throw new LogEntry.Invalid();
        }
        item.timestamp();
        if (spec.readsCategories || spec.readsVersions) {
            ItemDescriptions known = ItemDescriptions.of(items.get(id));
            known.add(item, spec.properties);
            items.put(id, known.stored());
        }
    }

    private void count(LogEntry event, boolean permitted, EventTime now, LogRecord record, ReadOnlyContext context)
            throws Exception {
        long timestamp = event.timestamp();
        long received = event.receivedAt();
        String type = event.required("type");
        String user = optional(event, "user_id");
        String device = optional(event, "device_id");
        for (String field : spec.fields) {
            optional(event, field);
        }
        long reached = received < 0 || received > timestamp ? timestamp : received;
        String key = null;
        if (spec.dedupeDays > 0) {
            String id = event.required("event_id");
            String sender = optional(event, "sender");
            key = sender == null ? id : sender + '\u001f' + length(device) + '\u001f' + length(user) + '\u001f'
                    + (device == null ? "" : device) + (user == null ? "" : user) + id;
            key = (sender == null ? "-" : "+") + key;
        }
        if (isErased(user, device)) {
            now.advance(reached, -1);
            return;
        }
        if (user == null && device == null) {
            return;
        }
        if (key != null && isKnown(key, received > 0 ? received : now.watermark)) {
            return;
        }
        long before = now.watermark;
        now.advance(reached, received);
        if (key != null) {
            ids.put(key, (int) ((received > 0 ? received : now.watermark) / DAY));
        }
        if (permitted) {
            send(event, user != null ? user : DEVICE + device, before, record, context);
        }
    }

    private boolean isErased(String user, String device) {
        return !erased.isEmpty()
                && (user != null && erased.contains(EntitySpec.hash("user", user))
                        || device != null && erased.contains(EntitySpec.hash("user", DEVICE + device)));
    }

    private boolean isKnown(String key, long at) throws Exception {
        Integer day = ids.get(key);
        return day != null && day >= at / DAY - spec.dedupeDays;
    }

    /** Sends an event to its user and session, each with what their aggregates read. */
    private void send(LogEntry event, String user, long watermark, LogRecord record, ReadOnlyContext context)
            throws Exception {
        String type = event.text("type");
        ItemDescriptions item = null;
        if (spec.readsCategories || spec.readsVersions) {
            String id = event.text("item_id");
            item = id == null ? null : ItemDescriptions.of(items.get(id));
        }
        for (EntityLayout layout : spec.entities) {
            String name = layout.kind.equals("user") ? user : event.text("session_id");
            if (name == null || layout.aggregates.stream().noneMatch(one -> one.counts(type, spec.apart))) {
                continue;
            }
            EntityEvent sent = new EntityEvent();
            sent.what = EntityEvent.EVENT;
            sent.key = record.partition + ":" + EntitySpec.hash(layout.kind, name);
            sent.name = name;
            sent.partition = record.partition;
            sent.next = record.offset + 1;
            sent.timestamp = event.timestamp();
            sent.watermark = watermark;
            select(sent, layout, event, user, item);
            context.output(tag(layout.kind), sent);
        }
    }

    private void select(EntityEvent sent, EntityLayout layout, LogEntry event, String user, ItemDescriptions item)
            throws LogEntry.Invalid {
        int count = 0;
        int[] aggregates = new int[layout.aggregates.size()];
        double[] amounts = new double[aggregates.length];
        String[] texts = new String[aggregates.length];
        for (int number = 0; number < aggregates.length; number++) {
            EntityLayout.Aggregate aggregate = layout.aggregates.get(number);
            if (!aggregate.counts(event.text("type"), spec.apart)) {
                continue;
            }
            double amount = aggregate.amounts == null
                    ? 0
                    : LogEntry.asAmount(value(aggregate.amounts, event, user, item));
            String text = aggregate.texts == null
                    ? null
                    : LogEntry.asText(value(aggregate.texts, event, user, item));
            if (!Double.isNaN(amount) && (aggregate.texts == null || text != null)) {
                aggregates[count] = number;
                amounts[count] = amount;
                texts[count++] = text;
            }
        }
        sent.aggregates = java.util.Arrays.copyOf(aggregates, count);
        sent.amounts = java.util.Arrays.copyOf(amounts, count);
        sent.texts = java.util.Arrays.copyOf(texts, count);
    }

    private static Object value(String source, LogEntry event, String user, ItemDescriptions item)
            throws LogEntry.Invalid {
        switch (source) {
            case "user_id":
                return user;
            case "item_id":
            case "session_id":
                return event.text(source);
            case "day":
                return Instant.ofEpochMilli(event.timestamp()).toString().substring(0, 10);
            case "category":
                Object own = event.properties.get("category");
                return own instanceof String ? own : item == null ? null : item.category;
            default:
                return source.startsWith("item.")
                        ? item == null ? null : item.at(event.timestamp(), source.substring(5))
                        : event.properties.get(source.substring("properties.".length()));
        }
    }

    private static String optional(LogEntry event, String name) throws LogEntry.Invalid {
        return event.fields.get(name) == null ? null : event.required(name);
    }

    private static int length(String text) {
        return text == null ? 0 : text.length();
    }
}
