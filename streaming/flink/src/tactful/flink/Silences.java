package tactful.flink;

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.functions.AggregateFunction;
import org.apache.flink.types.Row;

/**
 * {@code silences(now, offset, start, start_offset, events, due, past_last)}: the matches
 * of which this row makes certain that silence followed them.
 *
 * <p>Rows come in the order of {@code now}, equal ones in any order. A row with a start is a match
 * that waits until {@code due}; one with only an offset is an event that ends the wait of the
 * matches before it; one with neither says that time has passed. With {@code past_last} the search
 * goes on behind a match that stayed: one that begins before its end does not count.
 */
@FunctionHint(output = @DataTypeHint("ARRAY<ROW<`start` BIGINT, `end` BIGINT, `events` ARRAY<STRING>>>"))
public final class Silences extends AggregateFunction<Row[], Silences.Waiting> {
    /** A match that waits. */
    public static final class Match {
        public long start;
        public long startOffset;
        public long end;
        public long endOffset;
        public String[] events = {};
        /** When silence has lasted long enough. */
        public long due;
    }

    /** The matches that wait by their beginnings, and what has to be known of those before. */
    public static final class Waiting {
        public List<Match> matches = new ArrayList<>();
        public List<Match> settled = new ArrayList<>();
        public long noiseTime = Long.MIN_VALUE;
        public long noiseOffset;
        public long lastEnd = Long.MIN_VALUE;
        public long lastOffset;
    }

    @Override
    public Waiting createAccumulator() {
        return new Waiting();
    }

    public void accumulate(
            Waiting waiting,
            Long now,
            Long offset,
            Long start,
            Long startOffset,
            @DataTypeHint("ARRAY<STRING>") String[] events,
            Long due,
            Boolean pastLast) {
        waiting.settled.clear();
        if (start != null) {
            Match match = new Match();
            match.start = start;
            match.startOffset = startOffset;
            match.end = now;
            match.endOffset = offset;
            match.events = events;
            match.due = due;
            add(waiting, match);
        } else if (offset != null) {
            hear(waiting, now, offset);
        }
        settle(waiting, now, pastLast);
    }

    @Override
    public Row[] getValue(Waiting waiting) {
        return waiting.settled.stream()
                .map(match -> Row.of(match.start, match.end, match.events))
                .toArray(Row[]::new);
    }

    private static void add(Waiting waiting, Match match) {
        // What ends the wait can be of the same time, and can have come first.
        if (isAfter(waiting.noiseTime, waiting.noiseOffset, match.end, match.endOffset)) {
            return;
        }
        int place = waiting.matches.size();
        while (place > 0 && isAfter(waiting.matches.get(place - 1), match)) {
            place--;
        }
        waiting.matches.add(place, match);
    }

    private static void hear(Waiting waiting, long time, long offset) {
        waiting.matches.removeIf(
                match -> time < match.due && isAfter(time, offset, match.end, match.endOffset));
        if (isAfter(time, offset, waiting.noiseTime, waiting.noiseOffset)) {
            waiting.noiseTime = time;
            waiting.noiseOffset = offset;
        }
    }

    private static void settle(Waiting waiting, long now, boolean pastLast) {
        while (!waiting.matches.isEmpty() && waiting.matches.get(0).due <= now) {
            Match match = waiting.matches.remove(0);
            if (!pastLast) {
                waiting.settled.add(match);
            } else if (isAfter(match.start, match.startOffset, waiting.lastEnd, waiting.lastOffset)) {
                waiting.lastEnd = match.end;
                waiting.lastOffset = match.endOffset;
                waiting.settled.add(match);
            }
        }
    }

    private static boolean isAfter(Match left, Match right) {
        return isAfter(left.start, left.startOffset, right.start, right.startOffset);
    }

    private static boolean isAfter(long time, long offset, long otherTime, long otherOffset) {
        return time > otherTime || (time == otherTime && offset > otherOffset);
    }
}
