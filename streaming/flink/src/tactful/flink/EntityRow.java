package tactful.flink;

/** A record for the entities' topic; without a value it deletes those before it. */
public final class EntityRow {
    public int partition;
    public byte[] key;
    public byte[] value;

    public EntityRow() {}

    EntityRow(int partition, byte[] key, byte[] value) {
        this.partition = partition;
        this.key = key;
        this.value = value;
    }
}
