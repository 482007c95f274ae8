package tactful.flink;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * State of one kind, of an entity or of one of its groups; the engine's state columns for one cell.
 *
 * <p>A column packs as records of numbers ({@link #pack}) or as an object ({@link #write}).
 */
abstract class EntityColumn {

    abstract void apply(long timestamp, long watermark, long horizon, double amount, String text);

    /** Appends the records, of panes from {@code oldest} on; returns the number of doubles of them. */
    int pack(PackedNumbers to, long oldest) {
        throw new IllegalStateException();
    }

    void restore(double[] records) {
        throw new IllegalStateException();
    }

    /** Writes the object; returns whether it holds anything. */
    boolean write(MessagePack.Writer to, long horizon) {
        throw new IllegalStateException();
    }

    void read(MessagePack.Reader from) {
        throw new IllegalStateException();
    }

    static EntityColumn of(EntityLayout.Column layout) {
        switch (layout.type) {
            case "panes":
                return new Numbers(layout);
            case "decayed":
                return new Decayed(layout);
            case "last_time":
                return new LastTime();
            case "last_n":
                return new Recent(layout.most);
            case "accumulators":
                return new Sketches(layout);
            case "sessions":
                return new EntitySessions(layout);
            default:
                throw new IllegalArgumentException("no such column: " + layout.type);
        }
    }

    /** Counts, sums, minima or maxima by pane, oldest first. */
    private static final class Numbers extends EntityColumn {
        private final EntityLayout.Column layout;
        private static final double[] NONE = {};
        private double[] records = NONE; // pane and number, one after the other
        private int size;

        Numbers(EntityLayout.Column layout) {
            this.layout = layout;
        }

        @Override
        void apply(long timestamp, long watermark, long horizon, double amount, String text) {
            long pane = Math.floorDiv(timestamp, layout.length);
            if (timestamp <= horizon && pane < layout.oldest(horizon)) {
                return;
            }
            int place = size;
            while (place > 0 && records[place - 2] > pane) {
                place -= 2;
            }
            if (place == 0 || records[place - 2] != pane) {
                if (size + 2 > records.length) {
                    records = Arrays.copyOf(records, Math.max(2, 2 * size));
                }
                System.arraycopy(records, place, records, place + 2, size - place);
                size += 2;
                records[place] = pane;
                records[place + 1] = Accumulator.identity(layout.fold);
                place += 2;
            }
            double added = layout.fold.equals("count") ? 1 : amount;
            records[place - 1] = Accumulator.fold(layout.fold, records[place - 1], added);
        }

        @Override
        int pack(PackedNumbers to, long oldest) {
            int begin = 0;
            while (begin < size && records[begin] < oldest) {
                begin += 2;
            }
            return to.add(records, begin, size);
        }

        @Override
        void restore(double[] stored) {
            records = stored;
            size = stored.length;
        }
    }

    /** A total in which an event counts half after each half-life. */
    private static final class Decayed extends EntityColumn {
        private static final int GONE = 2200;
        private final EntityLayout.Column layout;
        private long newest = -1;
        private double total;

        Decayed(EntityLayout.Column layout) {
            this.layout = layout;
        }

        @Override
        void apply(long timestamp, long watermark, long horizon, double amount, String text) {
            long before = Math.floorDiv(newest, layout.length);
            newest = Math.max(newest, timestamp);
            long now = Math.floorDiv(newest, layout.length);
            total = shifted(total, before - now);
            if (before - now < -GONE && !Double.isFinite(total)) {
                total = 0;
            }
            double part = (double) Math.floorMod(timestamp, layout.length) / layout.length;
            double added = (layout.fold.equals("count") ? 1 : amount) * Math.pow(2, part);
            total += shifted(added, Math.floorDiv(timestamp, layout.length) - now);
        }

        private static double shifted(double value, long turns) {
            return Math.scalb(value, (int) Math.max(Math.min(turns, 5000), -5000));
        }

        @Override
        int pack(PackedNumbers to, long oldest) {
            return newest < 0 ? 0 : to.add((double) newest) + to.add(total);
        }

        @Override
        void restore(double[] records) {
            if (records.length > 0) {
                newest = (long) records[0];
                total = records[1];
            }
        }
    }

    /** Time of the newest event. */
    private static final class LastTime extends EntityColumn {
        private double newest = Double.NaN;

        @Override
        void apply(long timestamp, long watermark, long horizon, double amount, String text) {
            newest = newest >= timestamp ? newest : timestamp;
        }

        @Override
        int pack(PackedNumbers to, long oldest) {
            return Double.isNaN(newest) ? 0 : to.add(newest);
        }

        @Override
        void restore(double[] records) {
            newest = records.length > 0 ? records[0] : Double.NaN;
        }
    }

    /** The newest texts with their times, oldest first; of equal times, the last ones. */
    private static final class Recent extends EntityColumn {
        private final int most;
        private final List<Long> times = new ArrayList<>();
        private final List<String> texts = new ArrayList<>();

        Recent(int most) {
            this.most = most;
        }

        @Override
        void apply(long timestamp, long watermark, long horizon, double amount, String text) {
            int place = times.size();
            while (place > 0 && times.get(place - 1) > timestamp) {
                place--;
            }
            times.add(place, timestamp);
            texts.add(place, text);
            if (times.size() > most) {
                times.remove(0);
                texts.remove(0);
            }
        }

        @Override
        boolean write(MessagePack.Writer to, long horizon) {
            to.array(times.size());
            for (int place = 0; place < times.size(); place++) {
                to.array(2);
                to.integer(times.get(place));
                to.text(texts.get(place));
            }
            return !times.isEmpty();
        }

        @Override
        void read(MessagePack.Reader from) {
            for (int left = from.array(); left > 0; left--) {
                from.array();
                times.add(from.integer());
                texts.add(from.text());
            }
        }
    }

    /** Sketches, or newest values, by pane. */
    private static final class Sketches extends EntityColumn {
        private final EntityLayout.Column layout;
        private final TreeMap<Long, Accumulator> panes = new TreeMap<>();

        Sketches(EntityLayout.Column layout) {
            this.layout = layout;
        }

        @Override
        void apply(long timestamp, long watermark, long horizon, double amount, String text) {
            long pane = Math.floorDiv(timestamp, layout.length);
            if (timestamp > horizon || pane >= layout.oldest(horizon)) {
                panes.computeIfAbsent(pane, any -> Accumulator.of(layout.fold, layout.most))
                        .add(amount, text, timestamp);
            }
        }

        @Override
        boolean write(MessagePack.Writer to, long horizon) {
            Map<Long, Accumulator> kept = panes.tailMap(layout.oldest(horizon), true);
            to.map(kept.size());
            kept.forEach((pane, accumulator) -> {
                to.integer(pane);
                accumulator.write(to);
            });
            return !kept.isEmpty();
        }

        @Override
        void read(MessagePack.Reader from) {
            for (int left = from.map(); left > 0; left--) {
                panes.put(from.integer(), Accumulator.of(layout.fold, layout.most, from));
            }
        }
    }
}
