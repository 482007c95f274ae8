package tactful.flink;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** The part of MessagePack that packed entities and their rows need. */
final class MessagePack {
    private MessagePack() {}

    /** Appends values. */
    static final class Writer {
        private byte[] bytes = new byte[256];
        private int size;

        byte[] toBytes() {
            return Arrays.copyOf(bytes, size);
        }

        /** Makes it empty; its memory is used again. */
        Writer cleared() {
            size = 0;
            return this;
        }

        void append(Writer other) {
            raw(other.bytes, 0, other.size);
        }

        void map(int count) {
            header(count, 0x80, 15, 0xde);
        }

        void array(int count) {
            header(count, 0x90, 15, 0xdc);
        }

        void nil() {
            one(0xc0);
        }

        void bool(boolean value) {
            one(value ? 0xc3 : 0xc2);
        }

        void integer(long value) {
            if (value >= -32 && value < 128) {
                one((int) value & 0xff);
            } else {
                one(0xd3);
                number(value, 8);
            }
        }

        void real(double value) {
            one(0xcb);
            number(Double.doubleToRawLongBits(value), 8);
        }

        void text(String value) {
            byte[] encoded = value.getBytes(StandardCharsets.UTF_8);
            int length = encoded.length;
            if (length < 32) {
                one(0xa0 | length);
            } else if (length < 1 << 8) {
                one(0xd9);
                one(length);
            } else if (length < 1 << 16) {
                one(0xda);
                number(length, 2);
            } else {
                one(0xdb);
                number(length, 4);
            }
            raw(encoded, 0, length);
        }

        void binary(byte[] value) {
            binary(value, value.length);
        }

        /** Appends the first {@code length} of some bytes. */
        void binary(byte[] value, int length) {
            if (length < 1 << 8) {
                one(0xc4);
                one(length);
            } else if (length < 1 << 16) {
                one(0xc5);
                number(length, 2);
            } else {
                one(0xc6);
                number(length, 4);
            }
            raw(value, 0, length);
        }

        private void header(int count, int small, int most, int large) {
            if (count <= most) {
                one(small | count);
            } else if (count < 1 << 16) {
                one(large);
                number(count, 2);
            } else {
                one(large + 1);
                number(count, 4);
            }
        }

        private void one(int value) {
            room(1);
            bytes[size++] = (byte) value;
        }

        private void number(long value, int width) {
            room(width);
            for (int shift = 8 * (width - 1); shift >= 0; shift -= 8) {
                bytes[size++] = (byte) (value >>> shift);
            }
        }

        private void raw(byte[] from, int begin, int count) {
            room(count);
            System.arraycopy(from, begin, bytes, size, count);
            size += count;
        }

        private void room(int count) {
            if (size + count > bytes.length) {
                bytes = Arrays.copyOf(bytes, Math.max(size + count, 2 * bytes.length));
            }
        }
    }

    /** Reads what a {@link Writer} has written. */
    static final class Reader {
        private final ByteBuffer bytes;

        Reader(byte[] bytes) {
            this.bytes = ByteBuffer.wrap(bytes);
        }

        int map() {
            return count(0x80, 0xde);
        }

        int array() {
            return count(0x90, 0xdc);
        }

        /** Whether the next value is nil, which is then read. */
        boolean nil() {
            boolean found = (bytes.get(bytes.position()) & 0xff) == 0xc0;
            if (found) {
                bytes.get();
            }
            return found;
        }

        boolean bool() {
            return (bytes.get() & 0xff) == 0xc3;
        }

        long integer() {
            int first = bytes.get() & 0xff;
            if (first == 0xd3) {
                return bytes.getLong();
            }
            if (first < 0x80 || first >= 0xe0) {
                return (byte) first;
            }
            throw damaged(first);
        }

        double real() {
            int first = bytes.get() & 0xff;
            if (first != 0xcb) {
                throw damaged(first);
            }
            return bytes.getDouble();
        }

        String text() {
            int first = bytes.get() & 0xff;
            int length;
            if (first >> 5 == 5) {
                length = first & 31;
            } else if (first >= 0xd9 && first <= 0xdb) {
                length = length(first - 0xd9);
            } else {
                throw damaged(first);
            }
            return new String(taken(length), StandardCharsets.UTF_8);
        }

        byte[] binary() {
            int first = bytes.get() & 0xff;
            if (first < 0xc4 || first > 0xc6) {
                throw damaged(first);
            }
            return taken(length(first - 0xc4));
        }

        /** Skips one value, with all that it contains. */
        void skip() {
            int first = bytes.get(bytes.position()) & 0xff;
            if (first >= 0x80 && first < 0x90 || first == 0xde || first == 0xdf) {
                for (int left = 2 * map(); left > 0; left--) {
                    skip();
                }
            } else if (first >= 0x90 && first < 0xa0 || first == 0xdc || first == 0xdd) {
                for (int left = array(); left > 0; left--) {
                    skip();
                }
            } else if (first >> 5 == 5 || first >= 0xd9 && first <= 0xdb) {
                text();
            } else if (first >= 0xc4 && first <= 0xc6) {
                binary();
            } else if (first == 0xcb) {
                real();
            } else if (first >= 0xc0 && first <= 0xc3) {
                bytes.get();
            } else {
                integer();
            }
        }

        private int count(int small, int large) {
            int first = bytes.get() & 0xff;
            if ((first & 0xf0) == small) {
                return first & 15;
            }
            if (first != large && first != large + 1) {
                throw damaged(first);
            }
            return length(first - large + 1);
        }

        private int length(int size) {
            return size == 0 ? bytes.get() & 0xff : size == 1 ? bytes.getShort() & 0xffff : bytes.getInt();
        }

        private byte[] taken(int length) {
            byte[] taken = new byte[length];
            bytes.get(taken);
            return taken;
        }

        private static IllegalStateException damaged(int first) {
            return new IllegalStateException("a packed entity is damaged at byte " + first);
        }
    }
}
