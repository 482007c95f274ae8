package tactful.flink;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** The newest time that a partition has reached, and the watermark behind it; the engine's rules. */
final class EventTime {
    private static final long LEAP = 86_400_000;
    private static final int WITNESSES = 3;

    long newest;
    long watermark;
    long next; // offset behind the last record
    private final List<Long> ahead = new ArrayList<>();
    private final long delay;

    /** Continues from {@code stored}, or begins with null. */
    EventTime(long delay, long[] stored) {
        this.delay = delay;
        if (stored != null) {
            newest = stored[0];
            watermark = stored[1];
            next = stored[2];
            for (int place = 3; place < stored.length; place++) {
                ahead.add(stored[place]);
            }
        }
    }

    long[] stored() {
        long[] stored = new long[3 + ahead.size()];
        stored[0] = newest;
        stored[1] = watermark;
        stored[2] = next;
        for (int place = 0; place < ahead.size(); place++) {
            stored[3 + place] = ahead.get(place);
        }
        return stored;
    }

    /** Takes in the time that an event or tick moves time to, and its receipt (-1: none). */
    void advance(long reached, long received) {
        if (received >= 0 && received - reached > LEAP && newest > 0 && newest < reached - LEAP) {
            ahead.add(reached);
            if (ahead.size() < WITNESSES) {
                return;
            }
            reached = Collections.min(ahead);
        }
        ahead.clear();
        if (reached > newest) {
            newest = reached;
            watermark = Math.max(watermark, reached - delay);
        }
    }
}
