package tactful.flink;

import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.BoundedOneInput;
import org.apache.flink.streaming.api.operators.InternalTimer;
import org.apache.flink.streaming.api.operators.InternalTimerService;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Triggerable;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;

/**
 * Keeps the entities of one kind, and publishes the packed value of each that has changed.
 *
 * <p>Changed entities are packed and published at the next mark, or the next checkpoint: an entity
 * with many events costs one row. The rows before a mark are published before the mark is. The
 * entities used last are held as objects, and stored at the next checkpoint or when they no longer fit.
 *
 * <p>After it has published for a time, it does not for three times as long: an operator that is behind
 * so reads more events for each row, until it has caught up.
 */
final class EntityOperator extends AbstractStreamOperator<EntityRow>
        implements OneInputStreamOperator<EntityEvent, EntityRow>, BoundedOneInput,
                Triggerable<String, VoidNamespace> {
    private static final long serialVersionUID = 1L;
    private static final int MOST_CHANGED = 5_000;
    private static final int REST = 3;
    private static final long LONGEST_REST = 1_000_000_000; // nanoseconds
    private static final int SHARE_OF_HEAP = 16; // for the held entities of a kind, of all slots
    private static final long LATEST_MS = 86_400_000;
    private static final long ALWAYS = -1; // offset of what replaces any other row

    private final String json;
    private final int kind; // place of the kind in the specification
    private transient EntitySpec spec;
    private transient EntityLayout layout;
    private transient PackedEntity packer;
    private transient ValueState<byte[]> stored;
    private transient InternalTimerService<VoidNamespace> timers;
    private transient HeldEntities held;
    private transient Map<String, HeldEntity> changed; // of those held, not yet published
    private transient Map<Integer, EntityEvent> marks; // the last of each partition
    private transient Set<Integer> unmarked; // partitions whose last mark is not yet published
    private transient long earliest; // next publication, by System.nanoTime, which is never set back
    private transient boolean isResting; // whether it waits for that time

    EntityOperator(String json, int kind) {
        this.json = json;
        this.kind = kind;
    }

    @Override
    public void open() throws Exception {
        super.open();
        spec = new EntitySpec(json);
        layout = spec.entities.get(kind);
        packer = new PackedEntity();
        int slots = getContainingTask().getEnvironment().getTaskManagerInfo().getConfiguration()
                .get(TaskManagerOptions.NUM_TASK_SLOTS);
        held = new HeldEntities(Runtime.getRuntime().maxMemory() / SHARE_OF_HEAP / slots);
        changed = new LinkedHashMap<>();
        marks = new HashMap<>();
        unmarked = new HashSet<>();
        earliest = System.nanoTime();
        stored = getRuntimeContext().getState(new ValueStateDescriptor<>(
                "entity", PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO));
        timers = getInternalTimerService("over", VoidNamespaceSerializer.INSTANCE, this);
    }

    @Override
    public void processElement(StreamRecord<EntityEvent> element) throws Exception {
        EntityEvent event = element.getValue();
        switch (event.what) {
            case EntityEvent.MARK:
                marks.put(event.partition, event);
                unmarked.add(event.partition);
                long rest = earliest - System.nanoTime();
                if (rest <= 0) {
                    publishAll();
                } else if (!isResting) {
                    isResting = true;
                    long now = processingTimeService.getCurrentProcessingTime();
                    processingTimeService.registerTimer(now + rest / 1_000_000, time -> {
                        isResting = false;
                        publishAll();
                    });
                }
                break;
            case EntityEvent.ERASE:
                erase(event);
                break;
            default:
                HeldEntity entity = held.get(event.key);
                if (entity == null) {
                    entity = load(event);
                    held.add(entity);
                }
                changed.put(event.key, entity);
                entity.next = event.next;
                entity.state.apply(event, spec.latenessMs);
                if (changed.size() >= MOST_CHANGED || held.isFull()) {
                    flush();
                }
        }
    }

    @Override
    public void prepareSnapshotPreBarrier(long checkpoint) throws Exception {
        publishAll(); // marks, too: without further events they would not come again after a restart
        for (HeldEntity entity : held.all()) {
            store(entity);
        }
    }

    @Override
    public void endInput() throws Exception {
        flush();
    }

    @Override
    public void onEventTime(InternalTimer<String, VoidNamespace> timer) {}

    /** Deletes an entity that no feature reads any more. */
    @Override
    public void onProcessingTime(InternalTimer<String, VoidNamespace> timer) throws Exception {
        flush();
        setCurrentKey(timer.getKey());
        HeldEntity entity = held.get(timer.getKey());
        if (entity == null) {
            byte[] bytes = stored.value();
            if (bytes == null) {
                return;
            }
            entity = HeldEntity.read(timer.getKey(), bytes, layout);
        }
        EntityEvent mark = marks.get(entity.partition);
        if (mark != null && entity.state.newest + layout.memory <= mark.watermark - spec.latenessMs) {
            stored.clear();
            held.remove(entity.key);
            delete(entity, mark.next);
        } else {
            watch();
        }
    }

    private HeldEntity load(EntityEvent event) throws Exception {
        byte[] bytes = stored.value();
        if (bytes != null) {
            return HeldEntity.read(event.key, bytes, layout);
        }
        HeldEntity entity = new HeldEntity(event.key);
        entity.name = event.name;
        entity.partition = event.partition;
        entity.state = new EntityState(layout);
        return entity;
    }

    private void erase(EntityEvent event) throws Exception {
        changed.remove(event.key);
        HeldEntity entity = held.remove(event.key);
        byte[] bytes = stored.value();
        if (bytes != null) {
            entity = HeldEntity.read(event.key, bytes, layout);
            stored.clear();
        }
        if (entity != null) {
            delete(entity, ALWAYS);
        }
    }

    /** Publishes what has changed, and the marks after it. */
    private void publishAll() throws Exception {
        long began = System.nanoTime();
        flush();
        for (int partition : unmarked) {
            publishMark(marks.get(partition));
        }
        unmarked.clear();
        long now = System.nanoTime();
        earliest = now + Math.min(REST * (now - began), LONGEST_REST);
    }

    private void flush() throws Exception {
        for (HeldEntity entity : changed.values()) {
            if (layout.memory != null && !entity.isWatched && spec.ends == null) {
                setCurrentKey(entity.key);
                entity.isWatched = true;
                watch();
            }
            byte[] packed = packer.pack(entity.state);
            held.published(entity, packed);
            publish(entity, entity.next, packed);
        }
        changed.clear();
        for (HeldEntity entity : held.evict()) {
            store(entity);
        }
    }

    private void store(HeldEntity entity) throws Exception {
        if (entity.packed != null) {
            setCurrentKey(entity.key);
            stored.update(entity.written());
            entity.packed = null;
        }
    }

    private void watch() {
        long wait = Math.max(spec.lookMs, Math.min(layout.memory + spec.latenessMs, LATEST_MS));
        timers.registerProcessingTimeTimer(
                VoidNamespace.INSTANCE, timers.currentProcessingTime() + wait);
    }

    private void delete(HeldEntity entity, long next) {
        publish(entity, next, null);
        output.collect(new StreamRecord<>(new EntityRow(entity.partition, key(entity), null)));
    }

    private void publish(HeldEntity entity, long next, byte[] packed) {
        MessagePack.Writer row = new MessagePack.Writer();
        row.array(6);
        row.integer(0);
        row.text(spec.tag);
        row.integer(next);
        row.text(layout.kind);
        row.text(entity.name);
        if (packed == null) {
            row.nil();
        } else {
            row.binary(packed);
        }
        byte[] value = row.toBytes();
        if (value.length > EntityTopics.LARGEST) {
            LOG.error("a {} of {} bytes is not published, at most {} fit: lower max_groups of its features",
                    layout.kind, value.length, EntityTopics.LARGEST);
            return;
        }
        output.collect(new StreamRecord<>(new EntityRow(entity.partition, key(entity), value)));
    }

    private void publishMark(EntityEvent mark) {
        MessagePack.Writer row = new MessagePack.Writer();
        row.array(8);
        row.integer(1);
        row.text(spec.tag);
        row.integer(mark.next);
        row.text(layout.kind);
        row.integer(mark.subtask);
        row.integer(mark.subtasks);
        row.integer(mark.watermark);
        row.integer(mark.forgotten);
        byte[] key = ("@" + layout.kind + ":" + mark.subtask).getBytes(StandardCharsets.UTF_8);
        output.collect(new StreamRecord<>(new EntityRow(mark.partition, key, row.toBytes())));
    }

    private byte[] key(HeldEntity entity) {
        return (layout.kind + ":" + entity.name).getBytes(StandardCharsets.UTF_8);
    }
}
