package tactful.flink;

import org.apache.flink.table.functions.AggregateFunction;

/**
 * {@code beyond_last(start, start_offset, end, end_offset)} over matches in their order: whether one
 * begins behind the end of the last one for which this was true.
 */
public final class BeyondLast extends AggregateFunction<Boolean, BeyondLast.Last> {
    /** Where the last match ended. */
    public static final class Last {
        public long end = Long.MIN_VALUE;
        public long offset;
        public boolean isBeyond;
    }

    @Override
    public Last createAccumulator() {
        return new Last();
    }

    public void accumulate(Last last, Long start, Long startOffset, Long end, Long endOffset) {
        last.isBeyond = start > last.end || (start == last.end && startOffset > last.offset);
        if (last.isBeyond) {
            last.end = end;
            last.offset = endOffset;
        }
    }

    @Override
    public Boolean getValue(Last last) {
        return last.isBeyond;
    }
}
