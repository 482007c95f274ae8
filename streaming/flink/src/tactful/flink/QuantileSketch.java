package tactful.flink;

import java.util.ArrayList;
import java.util.List;

/** The engine's sketch of quantiles: the same values, levels and sequence of bits. */
final class QuantileSketch {
    private static final int CAPACITY = 200;
    private static final int SMALLEST = 8;
    private static final double SHRINK = 2.0 / 3.0;

    private List<List<Double>> levels = new ArrayList<>(List.of(new ArrayList<>()));
    private double least = Double.POSITIVE_INFINITY;
    private double greatest = Double.NEGATIVE_INFINITY;
    private long tosses;

    void add(double value) {
        least = value < least ? value : least;
        greatest = value > greatest ? value : greatest;
        levels.get(0).add(value);
        if (levels.get(0).size() >= capacity(0)) {
            compress();
        }
    }

    void merge(QuantileSketch other) {
        least = Math.min(least, other.least);
        greatest = Math.max(greatest, other.greatest);
        tosses = Math.max(tosses, other.tosses);
        while (levels.size() < other.levels.size()) {
            levels.add(new ArrayList<>());
        }
        for (int level = 0; level < other.levels.size(); level++) {
            levels.get(level).addAll(other.levels.get(level));
        }
        compress();
    }

    void write(MessagePack.Writer to) {
        to.array(3 + levels.size());
        to.integer(tosses);
        to.real(least);
        to.real(greatest);
        for (List<Double> level : levels) {
            to.array(level.size());
            level.forEach(to::real);
        }
    }

    static QuantileSketch read(MessagePack.Reader from) {
        QuantileSketch sketch = new QuantileSketch();
        int count = from.array();
        sketch.tosses = from.integer();
        sketch.least = from.real();
        sketch.greatest = from.real();
        sketch.levels = new ArrayList<>();
        for (int level = 3; level < count; level++) {
            List<Double> values = new ArrayList<>();
            for (int left = from.array(); left > 0; left--) {
                values.add(from.real());
            }
            sketch.levels.add(values);
        }
        return sketch;
    }

    private void compress() {
        for (int level = 0; level < levels.size(); level++) {
            List<Double> values = levels.get(level);
            if (values.size() < capacity(level)) {
                continue;
            }
            if (level + 1 == levels.size()) {
                levels.add(new ArrayList<>());
            }
            // As in Python, zeros of both signs are equal and stay in their order.
            values.sort((a, b) -> a < b ? -1 : a > b ? 1 : 0);
            List<Double> stays = new ArrayList<>();
            if (values.size() % 2 == 1) {
                stays.add(values.remove(values.size() - 1));
            }
            for (int place = toss(); place < values.size(); place += 2) {
                levels.get(level + 1).add(values.get(place));
            }
            levels.set(level, stays);
        }
    }

    private int capacity(int level) {
        int depth = levels.size() - 1 - level;
        return Math.max((int) Math.ceil(CAPACITY * Math.pow(SHRINK, depth)), SMALLEST);
    }

    private int toss() {
        tosses++;
        long mixed = tosses * 0x9E3779B97F4A7C15L;
        mixed = (mixed ^ mixed >>> 30) * 0xBF58476D1CE4E5B9L;
        mixed = (mixed ^ mixed >>> 27) * 0x94D049BB133111EBL;
        return (int) ((mixed ^ mixed >>> 31) & 1);
    }
}
