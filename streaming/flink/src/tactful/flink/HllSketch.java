package tactful.flink;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashSet;
import java.util.Set;

/**
 * Number of different texts, in the format of Apache DataSketches, which the engine reads: a list of
 * coupons, then a set, then registers of a byte each. A coupon is the first bits of a hash and the
 * number of zeros in its rest. Both sides turn to registers at the same number of coupons.
 */
final class HllSketch {
    private static final int LG_K = 14;
    private static final int FAMILY = 7;
    private static final int COMPACT = 8;
    private static final int OUT_OF_ORDER = 16;
    private static final int LIST = 0, SET = 1, REGISTERS = 2;
    private static final int HLL_4 = 0, HLL_8 = 2;
    private static final int LIST_ENDS = 8;
    private static final int SET_ENDS = 3 * (1 << LG_K - 3) / 4;
    private static final long SEED = 9001;

    private Set<Integer> coupons = new LinkedHashSet<>();
    private byte[] registers;

    void add(String text) {
        if (!text.isEmpty()) { // the library counts no empty text
            add(coupon(text.getBytes(StandardCharsets.UTF_8)));
        }
    }

    void merge(HllSketch other) {
        if (other.registers == null) {
            other.coupons.forEach(this::add);
            return;
        }
        if (registers == null) {
            promote();
        }
        for (int slot = 0; slot < registers.length; slot++) {
            registers[slot] = (byte) Math.max(registers[slot], other.registers[slot]);
        }
    }

    private void add(int coupon) {
        if (registers != null) {
            int slot = coupon & (1 << LG_K) - 1;
            registers[slot] = (byte) Math.max(registers[slot], coupon >>> 26);
        } else if (coupons.add(coupon) && coupons.size() > SET_ENDS) {
            promote();
        }
    }

    private void promote() {
        Set<Integer> all = coupons;
        registers = new byte[1 << LG_K];
        coupons = null;
        all.forEach(this::add);
    }

    byte[] toBytes() {
        if (registers != null) {
            return registerBytes();
        }
        boolean listed = coupons.size() < LIST_ENDS;
        int lgSize = listed ? 3 : 5;
        while (!listed && 4 * coupons.size() > 3 << lgSize) {
            lgSize++;
        }
        ByteBuffer bytes = buffer((listed ? 8 : 12) + 4 * coupons.size());
        bytes.put((byte) (listed ? 2 : 3)).put((byte) 1).put((byte) FAMILY).put((byte) LG_K);
        bytes.put((byte) lgSize).put((byte) COMPACT).put((byte) (listed ? coupons.size() : 0));
        bytes.put((byte) (listed ? LIST : SET | HLL_4 << 2));
        if (!listed) {
            bytes.putInt(coupons.size());
        }
        coupons.forEach(bytes::putInt);
        return bytes.array();
    }

    private byte[] registerBytes() {
        int zeros = 0;
        double small = 0, large = 0;
        for (byte register : registers) {
            zeros += register == 0 ? 1 : 0;
            if (register < 32) {
                small += 1.0 / (1L << register);
            } else {
                large += 1.0 / (1L << register);
            }
        }
        ByteBuffer bytes = buffer(40 + registers.length);
        bytes.put((byte) 10).put((byte) 1).put((byte) FAMILY).put((byte) LG_K);
        bytes.put((byte) 0).put((byte) (COMPACT | OUT_OF_ORDER)).put((byte) 0);
        bytes.put((byte) (REGISTERS | HLL_8 << 2));
        bytes.putDouble(0).putDouble(small).putDouble(large).putInt(zeros).putInt(0).put(registers);
        return bytes.array();
    }

    /** Reads what {@link #toBytes} wrote. */
    static HllSketch of(byte[] written) {
        ByteBuffer bytes = ByteBuffer.wrap(written).order(ByteOrder.LITTLE_ENDIAN);
        HllSketch sketch = new HllSketch();
        int mode = written[7] & 3;
        if (mode == REGISTERS) {
            sketch.coupons = null;
            sketch.registers = new byte[1 << LG_K];
            bytes.position(40).get(sketch.registers);
            return sketch;
        }
        bytes.position(mode == LIST ? 8 : 12);
        while (bytes.hasRemaining()) {
            sketch.coupons.add(bytes.getInt());
        }
        return sketch;
    }

    private static ByteBuffer buffer(int size) {
        return ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
    }

    /** MurmurHash3 of 128 bits: 26 bits of its first half, and the leading zeros of its second. */
    private static int coupon(byte[] data) {
        final long c1 = 0x87c37b91114253d5L, c2 = 0x4cf5ad432745937fL;
        ByteBuffer bytes = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN);
        long h1 = SEED, h2 = SEED;
        while (bytes.remaining() >= 16) {
            long k1 = bytes.getLong(), k2 = bytes.getLong();
            h1 ^= Long.rotateLeft(k1 * c1, 31) * c2;
            h1 = (Long.rotateLeft(h1, 27) + h2) * 5 + 0x52dce729;
            h2 ^= Long.rotateLeft(k2 * c2, 33) * c1;
            h2 = (Long.rotateLeft(h2, 31) + h1) * 5 + 0x38495ab5;
        }
        long k1 = 0, k2 = 0;
        int begin = bytes.position();
        for (int place = data.length - 1; place >= begin; place--) {
            long value = data[place] & 0xff;
            if (place - begin >= 8) {
                k2 = k2 << 8 | value;
            } else {
                k1 = k1 << 8 | value;
            }
        }
        h1 ^= Long.rotateLeft(k1 * c1, 31) * c2;
        h2 ^= Long.rotateLeft(k2 * c2, 33) * c1;
        h1 ^= data.length;
        h2 ^= data.length;
        h1 += h2;
        h2 += h1;
        h1 = mixed(h1);
        h2 = mixed(h2);
        h1 += h2;
        h2 += h1;
        int zeros = Math.min(Long.numberOfLeadingZeros(h2), 62);
        return (zeros + 1) << 26 | (int) (h1 & (1 << 26) - 1);
    }

    private static long mixed(long h) {
        h = (h ^ h >>> 33) * 0xff51afd7ed558ccdL;
        h = (h ^ h >>> 33) * 0xc4ceb9fe1a85ec53L;
        return h ^ h >>> 33;
    }
}
