package tactful.flink;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import org.apache.flink.table.functions.AggregateFunction;

/**
 * {@code distinct_hll(text)}: about how many different texts there are.
 *
 * <p>A HyperLogLog of 2^12 registers (Flajolet, Fusy, Gandouet and Meunier 2007; standard error 1.6 %)
 * read by the estimator of Ertl ("New cardinality estimation algorithms for HyperLogLog sketches",
 * arXiv:1702.01284, algorithm 6), which needs no table and no bias correction. While few values were
 * seen their hashes are kept, and the count is exact.
 */
public final class HllDistinct extends AggregateFunction<Double, HllDistinct.Sketch> {
    private static final int BITS = 12;
    private static final int REGISTERS = 1 << BITS;
    private static final int TAIL = Long.SIZE - BITS; // bits of a hash whose leading zeros count
    private static final int MOST_HASHES = 256;

    /** Sorted hashes while they are few, then registers. */
    public static final class Sketch {
        public long[] hashes = new long[0];
        public byte[] registers = new byte[0];
    }

    @Override
    public Sketch createAccumulator() {
        return new Sketch();
    }

    public void accumulate(Sketch sketch, String text) {
        if (text != null) {
            add(sketch, hash(text));
        }
    }

    public void merge(Sketch sketch, Iterable<Sketch> others) {
        for (Sketch other : others) {
            for (long hash : other.hashes) {
                add(sketch, hash);
            }
            if (other.registers.length > 0) {
                makeDense(sketch);
                for (int index = 0; index < REGISTERS; index++) {
                    sketch.registers[index] = (byte) Math.max(sketch.registers[index], other.registers[index]);
                }
            }
        }
    }

    @Override
    public Double getValue(Sketch sketch) {
        return sketch.registers.length == 0 ? (double) sketch.hashes.length : estimate(sketch.registers);
    }

    private static void add(Sketch sketch, long hash) {
        if (sketch.registers.length == 0) {
            int at = Arrays.binarySearch(sketch.hashes, hash);
            if (at >= 0) {
                return;
            }
            if (sketch.hashes.length < MOST_HASHES) {
                long[] more = Arrays.copyOf(sketch.hashes, sketch.hashes.length + 1);
                System.arraycopy(sketch.hashes, -at - 1, more, -at, sketch.hashes.length + at + 1);
                more[-at - 1] = hash;
                sketch.hashes = more;
                return;
            }
            makeDense(sketch);
        }
        note(sketch.registers, hash);
    }

    private static void makeDense(Sketch sketch) {
        if (sketch.registers.length == 0) {
            sketch.registers = new byte[REGISTERS];
            for (long hash : sketch.hashes) {
                note(sketch.registers, hash);
            }
            sketch.hashes = new long[0];
        }
    }

    private static void note(byte[] registers, long hash) {
        int index = (int) (hash >>> TAIL);
        int rank = Math.min(Long.numberOfLeadingZeros(hash << BITS), TAIL) + 1;
        registers[index] = (byte) Math.max(registers[index], rank);
    }

    private static double estimate(byte[] registers) {
        int[] counts = new int[TAIL + 2];
        for (byte register : registers) {
            counts[register]++;
        }
        double z = REGISTERS * tau(1 - counts[TAIL + 1] / (double) REGISTERS);
        for (int rank = TAIL; rank >= 1; rank--) {
            z = 0.5 * (z + counts[rank]);
        }
        z += REGISTERS * sigma(counts[0] / (double) REGISTERS);
        return REGISTERS / (2 * Math.log(2)) * REGISTERS / z;
    }

    private static double sigma(double x) {
        if (x == 1) {
            return Double.POSITIVE_INFINITY;
        }
        double y = 1;
        double z = x;
        for (double before = Double.NaN; z != before; ) {
            x *= x;
            before = z;
            z += x * y;
            y += y;
        }
        return z;
    }

    private static double tau(double x) {
        if (x == 0 || x == 1) {
            return 0;
        }
        double y = 1;
        double z = 1 - x;
        for (double before = Double.NaN; z != before; ) {
            x = Math.sqrt(x);
            before = z;
            y *= 0.5;
            z -= (1 - x) * (1 - x) * y;
        }
        return z / 3;
    }

    /** FNV-1a, its bits mixed by the finalizer of MurmurHash3. */
    private static long hash(String text) {
        long hash = 0xcbf29ce484222325L;
        for (byte part : text.getBytes(StandardCharsets.UTF_8)) {
            hash = (hash ^ (part & 0xff)) * 0x100000001b3L;
        }
        hash = (hash ^ (hash >>> 33)) * 0xff51afd7ed558ccdL;
        hash = (hash ^ (hash >>> 33)) * 0xc4ceb9fe1a85ec53L;
        return hash ^ (hash >>> 33);
    }
}
