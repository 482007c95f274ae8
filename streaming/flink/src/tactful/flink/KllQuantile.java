package tactful.flink;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.flink.table.functions.AggregateFunction;

/**
 * {@code quantile_kll(number, q)}: the least number that at least the share q of all does not exceed.
 *
 * <p>A compactor sketch (Karnin, Lang and Liberty, "Optimal quantile approximation in streams", FOCS
 * 2016): a number on level h stands for 2^h; of a level that is full, sorted, every other one moves
 * up. Exact up to 200 numbers, then within the bounds of the sketch that the engine has: which numbers
 * are left depends on the order in which partial results are merged.
 */
public final class KllQuantile extends AggregateFunction<Double, KllQuantile.Sketch> {
    private static final int CAPACITY = 200;
    private static final double SHRINK = 2.0 / 3;
    private static final int SMALLEST = 8;

    /** Numbers by level. */
    public static final class Sketch {
        public List<double[]> levels = new ArrayList<>(List.of(new double[0]));
        public double least = Double.POSITIVE_INFINITY;
        public double greatest = Double.NEGATIVE_INFINITY;
        public double q;
        public long tosses;
    }

    @Override
    public Sketch createAccumulator() {
        return new Sketch();
    }

    public void accumulate(Sketch sketch, Double number, Double q) {
        sketch.q = q;
        if (number != null) {
            sketch.least = Math.min(sketch.least, number);
            sketch.greatest = Math.max(sketch.greatest, number);
            append(sketch, 0, new double[] {number});
            compress(sketch);
        }
    }

    public void merge(Sketch sketch, Iterable<Sketch> others) {
        for (Sketch other : others) {
            sketch.q = Math.max(sketch.q, other.q);
            sketch.least = Math.min(sketch.least, other.least);
            sketch.greatest = Math.max(sketch.greatest, other.greatest);
            sketch.tosses = Math.max(sketch.tosses, other.tosses);
            for (int level = 0; level < other.levels.size(); level++) {
                append(sketch, level, other.levels.get(level));
            }
            compress(sketch);
        }
    }

    @Override
    public Double getValue(Sketch sketch) {
        List<double[]> weighed = new ArrayList<>();
        double total = 0;
        for (int level = 0; level < sketch.levels.size(); level++) {
            for (double number : sketch.levels.get(level)) {
                weighed.add(new double[] {number, 1L << level});
                total += 1L << level;
            }
        }
        if (total == 0) {
            return null;
        }
        if (sketch.q <= 0 || sketch.q >= 1) {
            return sketch.q <= 0 ? sketch.least : sketch.greatest;
        }
        weighed.sort((left, right) -> Double.compare(left[0], right[0]));
        double rank = 0;
        for (double[] one : weighed) {
            rank += one[1];
            if (rank >= sketch.q * total) {
                return one[0];
            }
        }
        return sketch.greatest;
    }

    private static void append(Sketch sketch, int level, double[] numbers) {
        while (sketch.levels.size() <= level) {
            sketch.levels.add(new double[0]);
        }
        double[] before = sketch.levels.get(level);
        double[] all = Arrays.copyOf(before, before.length + numbers.length);
        System.arraycopy(numbers, 0, all, before.length, numbers.length);
        sketch.levels.set(level, all);
    }

    private static void compress(Sketch sketch) {
        for (int level = 0; level < sketch.levels.size(); level++) {
            double[] numbers = sketch.levels.get(level);
            int depth = sketch.levels.size() - 1 - level;
            if (numbers.length < Math.max(Math.ceil(CAPACITY * Math.pow(SHRINK, depth)), SMALLEST)) {
                continue;
            }
            Arrays.sort(numbers);
            // An odd one out stays, so that the weights add up.
            int moving = numbers.length - numbers.length % 2;
            double[] up = new double[moving / 2];
            int toss = toss(sketch);
            for (int place = 0; place < up.length; place++) {
                up[place] = numbers[2 * place + toss];
            }
            sketch.levels.set(level, Arrays.copyOfRange(numbers, moving, numbers.length));
            append(sketch, level + 1, up);
        }
    }

    /** The next bit of a fixed sequence, so that a replay repeats its answers (SplitMix64). */
    private static int toss(Sketch sketch) {
        long mixed = ++sketch.tosses * 0x9e3779b97f4a7c15L;
        mixed = (mixed ^ (mixed >>> 30)) * 0xbf58476d1ce4e5b9L;
        mixed = (mixed ^ (mixed >>> 27)) * 0x94d049bb133111ebL;
        return (int) ((mixed ^ (mixed >>> 31)) & 1);
    }
}
