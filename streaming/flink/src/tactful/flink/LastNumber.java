package tactful.flink;

import org.apache.flink.table.functions.AggregateFunction;

/** {@code last_number(number, timestamp)}: the newest number; of equally new ones the later. */
public final class LastNumber extends AggregateFunction<Double, LastNumber.Newest> {
    /** The newest number so far. */
    public static final class Newest {
        public Double number;
        public long timestamp = Long.MIN_VALUE;
    }

    @Override
    public Newest createAccumulator() {
        return new Newest();
    }

    public void accumulate(Newest newest, Double number, Long timestamp) {
        if (number != null && timestamp >= newest.timestamp) {
            newest.number = number;
            newest.timestamp = timestamp;
        }
    }

    public void merge(Newest newest, Iterable<Newest> others) {
        for (Newest other : others) {
            accumulate(newest, other.number, other.timestamp);
        }
    }

    @Override
    public Double getValue(Newest newest) {
        return newest.number;
    }
}
