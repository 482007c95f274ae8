package tactful.flink;

import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The entities that were used last, by their keys, up to a limit of memory. */
final class HeldEntities {
    private final Map<String, HeldEntity> byKey = new LinkedHashMap<>(1024, 0.75f, true); // last used last
    private final long limit;
    private long size;

    HeldEntities(long limit) {
        this.limit = limit;
    }

    /** Returns the entity of a key, which counts as used; null: it is not held. */
    HeldEntity get(String key) {
        return byKey.get(key);
    }

    void add(HeldEntity entity) {
        byKey.put(entity.key, entity);
        size += entity.size;
    }

    /** Takes the published value of an entity that is held. */
    void published(HeldEntity entity, byte[] packed) {
        size -= entity.size;
        entity.published(packed);
        size += entity.size;
    }

    HeldEntity remove(String key) {
        HeldEntity entity = byKey.remove(key);
        if (entity != null) {
            size -= entity.size;
        }
        return entity;
    }

    /** Whether those beyond the limit are to be published and evicted now. */
    boolean isFull() {
        return size > 2 * limit;
    }

    Iterable<HeldEntity> all() {
        return byKey.values();
    }

    /** Removes and returns those beyond the limit, unused for longest first. */
    List<HeldEntity> evict() {
        List<HeldEntity> evicted = new ArrayList<>();
        for (Iterator<HeldEntity> oldest = byKey.values().iterator(); size > limit && oldest.hasNext();) {
            HeldEntity entity = oldest.next();
            oldest.remove();
            size -= entity.size;
            evicted.add(entity);
        }
        return evicted;
    }
}
