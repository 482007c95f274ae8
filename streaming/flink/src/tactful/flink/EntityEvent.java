package tactful.flink;

/** What one record of the log means for one entity; or a mark, or an erasure. */
public final class EntityEvent {
    static final int EVENT = 0, MARK = 1, ERASE = 2;

    public int what;
    public String key; // what the state is kept by: partition and hash of the entity
    public String name; // key of the entity
    public int partition; // of the log
    public long next; // offset behind the record
    public long timestamp;
    public long watermark; // before the event; of a mark, that reached
    public int subtask; // of a mark: for whom it is …
    public int subtasks; // … of how many
    public long forgotten; // of a mark: offset behind the last erasures that came before it, or 0
    public int[] aggregates = {}; // those that count the event
    public double[] amounts = {};
    public String[] texts = {};
}
