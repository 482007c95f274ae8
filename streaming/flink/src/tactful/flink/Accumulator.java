package tactful.flink;

import java.util.LinkedHashMap;
import java.util.Map;

/** State of one pane or session, such as a sketch; the engine's accumulators. */
abstract class Accumulator {
    abstract void add(double amount, String text, long timestamp);

    abstract void merge(Accumulator other);

    abstract void write(MessagePack.Writer to);

    abstract void read(MessagePack.Reader from);

    static Accumulator of(String kind, int most) {
        switch (kind) {
            case "hll":
                return new Distinct();
            case "kll":
                return new Quantiles();
            case "values":
                return new Values(most);
            case "last":
                return new Newest();
            default:
                return new Total(kind);
        }
    }

    static Accumulator of(String kind, int most, MessagePack.Reader from) {
        Accumulator accumulator = of(kind, most);
        accumulator.read(from);
        return accumulator;
    }

    /** A number that amounts are folded into. */
    static double fold(String kind, double total, double amount) {
        switch (kind) {
            case "min":
                return amount < total ? amount : total;
            case "max":
                return amount > total ? amount : total;
            default:
                return total + amount;
        }
    }

    static double identity(String kind) {
        return kind.equals("min") ? Double.POSITIVE_INFINITY : kind.equals("max") ? Double.NEGATIVE_INFINITY : 0;
    }

    private static final class Total extends Accumulator {
        private final String kind;
        private double total;

        Total(String kind) {
            this.kind = kind;
            total = identity(kind);
        }

        @Override
        void add(double amount, String text, long timestamp) {
            total = fold(kind, total, kind.equals("count") ? 1 : amount);
        }

        @Override
        void merge(Accumulator other) {
            total = fold(kind, total, ((Total) other).total);
        }

        @Override
        void write(MessagePack.Writer to) {
            to.real(total);
        }

        @Override
        void read(MessagePack.Reader from) {
            total = from.real();
        }
    }

    private static final class Newest extends Accumulator {
        private long timestamp = -1;
        private double value;

        @Override
        void add(double amount, String text, long at) {
            if (at >= timestamp) {
                timestamp = at;
                value = amount;
            }
        }

        @Override
        void merge(Accumulator other) {
            add(((Newest) other).value, null, ((Newest) other).timestamp);
        }

        @Override
        void write(MessagePack.Writer to) {
            to.array(2);
            to.integer(timestamp);
            to.real(value);
        }

        @Override
        void read(MessagePack.Reader from) {
            from.array();
            timestamp = from.integer();
            value = from.real();
        }
    }

    private static final class Distinct extends Accumulator {
        private HllSketch sketch = new HllSketch();

        @Override
        void add(double amount, String text, long timestamp) {
            sketch.add(text);
        }

        @Override
        void merge(Accumulator other) {
            sketch.merge(((Distinct) other).sketch);
        }

        @Override
        void write(MessagePack.Writer to) {
            to.binary(sketch.toBytes());
        }

        @Override
        void read(MessagePack.Reader from) {
            sketch = HllSketch.of(from.binary());
        }
    }

    private static final class Quantiles extends Accumulator {
        private QuantileSketch sketch = new QuantileSketch();

        @Override
        void add(double amount, String text, long timestamp) {
            sketch.add(amount);
        }

        @Override
        void merge(Accumulator other) {
            sketch.merge(((Quantiles) other).sketch);
        }

        @Override
        void write(MessagePack.Writer to) {
            sketch.write(to);
        }

        @Override
        void read(MessagePack.Reader from) {
            sketch = QuantileSketch.read(from);
        }
    }

    /** Count of each text; beyond {@code most} texts, new ones are ignored. */
    private static final class Values extends Accumulator {
        private final int most;
        private final Map<String, Long> counts = new LinkedHashMap<>();

        Values(int most) {
            this.most = most;
        }

        @Override
        void add(double amount, String text, long timestamp) {
            count(text, 1);
        }

        @Override
        void merge(Accumulator other) {
            ((Values) other).counts.forEach(this::count);
        }

        private void count(String text, long number) {
            if (counts.containsKey(text) || counts.size() < most) {
                counts.merge(text, number, Long::sum);
            }
        }

        @Override
        void write(MessagePack.Writer to) {
            to.map(counts.size());
            counts.forEach((text, number) -> {
                to.text(text);
                to.integer(number);
            });
        }

        @Override
        void read(MessagePack.Reader from) {
            for (int left = from.map(); left > 0; left--) {
                counts.put(from.text(), from.integer());
            }
        }
    }
}
