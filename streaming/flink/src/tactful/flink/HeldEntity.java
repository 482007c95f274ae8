package tactful.flink;

/** An entity as objects, and the last record that it counted. */
final class HeldEntity {
    final String key; // what the state is kept by
    String name;
    int partition;
    long next;
    boolean isWatched; // whether a timer will look if it is over
    EntityState state;
    byte[] packed; // the published value, as long as it is not stored; null: it is stored
    long size = memory(0); // bytes of memory, about

    HeldEntity(String key) {
        this.key = key;
    }

    /** Takes what was published last. */
    void published(byte[] value) {
        packed = value;
        size = memory(value.length);
    }

    /** The state for {@link #read}. */
    byte[] written() {
        MessagePack.Writer to = new MessagePack.Writer();
        to.text(name);
        to.integer(partition);
        to.integer(next);
        to.bool(isWatched);
        to.integer(state.horizon);
        to.binary(packed);
        return to.toBytes();
    }

    static HeldEntity read(String key, byte[] written, EntityLayout layout) {
        MessagePack.Reader from = new MessagePack.Reader(written);
        HeldEntity entity = new HeldEntity(key);
        entity.name = from.text();
        entity.partition = (int) from.integer();
        entity.next = from.integer();
        entity.isWatched = from.bool();
        long horizon = from.integer();
        byte[] packed = from.binary();
        entity.state = PackedEntity.unpack(packed, layout);
        entity.state.horizon = horizon;
        entity.size = memory(packed.length);
        return entity;
    }

    /** A group with two columns has some 45 bytes packed, and 300 as objects. */
    private static long memory(int packed) {
        return 1_000 + 8L * packed;
    }
}
