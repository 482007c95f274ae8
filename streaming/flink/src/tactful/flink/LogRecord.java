package tactful.flink;

/** A record of the log or, with a hash and a kind as its texts, of the topic of erased people. */
public final class LogRecord {
    public int partition;
    public long offset;
    public byte[] key;
    public byte[] value;
}
