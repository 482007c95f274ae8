package tactful.flink;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;
import java.util.Arrays;

/** Numbers one after the other as packed values hold them, lowest byte first; its memory is used again. */
final class PackedNumbers {
    private static final VarHandle DOUBLES =
            MethodHandles.byteArrayViewVarHandle(double[].class, ByteOrder.LITTLE_ENDIAN);
    private static final VarHandle LONGS =
            MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);
    private static final VarHandle SHORTS =
            MethodHandles.byteArrayViewVarHandle(short[].class, ByteOrder.LITTLE_ENDIAN);

    private byte[] bytes = new byte[256];
    private int size;

    void clear() {
        size = 0;
    }

    boolean isEmpty() {
        return size == 0;
    }

    /** Appends a part of {@code values}; returns how many these are. */
    int add(double[] values, int begin, int end) {
        room(8 * (end - begin));
        for (int place = begin; place < end; place++, size += 8) {
            DOUBLES.set(bytes, size, values[place]);
        }
        return end - begin;
    }

    int add(double value) {
        room(8);
        DOUBLES.set(bytes, size, value);
        size += 8;
        return 1;
    }

    void add(long value) {
        room(8);
        LONGS.set(bytes, size, value);
        size += 8;
    }

    void add(short value) {
        room(2);
        SHORTS.set(bytes, size, value);
        size += 2;
    }

    void write(MessagePack.Writer to) {
        to.binary(bytes, size);
    }

    private void room(int count) {
        if (size + count > bytes.length) {
            bytes = Arrays.copyOf(bytes, Math.max(size + count, 2 * bytes.length));
        }
    }

    static double[] doubles(byte[] data, int begin, int count) {
        double[] values = new double[count];
        for (int place = 0; place < count; place++) {
            values[place] = (double) DOUBLES.get(data, begin + 8 * place);
        }
        return values;
    }

    static long longAt(byte[] data, int place) {
        return (long) LONGS.get(data, 8 * place);
    }

    static int shortAt(byte[] data, int place) {
        return (short) SHORTS.get(data, 2 * place) & 0xffff;
    }
}
