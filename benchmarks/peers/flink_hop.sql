-- Count of each user, 5 minutes every minute.
SET 'pipeline.name' = 'hop';
CREATE TABLE events (
    user_id STRING,
    `timestamp` BIGINT,
    happened AS TO_TIMESTAMP_LTZ(`timestamp`, 3),
    WATERMARK FOR happened AS happened - INTERVAL '$delay_s' SECOND
) WITH ($source);
CREATE TABLE counts (
    user_id STRING, window_end TIMESTAMP_LTZ(3), feature_value BIGINT,
    PRIMARY KEY (user_id) NOT ENFORCED
) WITH ($sink);
INSERT INTO counts
SELECT user_id, window_end, COUNT(*)
FROM TABLE(HOP(TABLE events, DESCRIPTOR(happened), INTERVAL '1' MINUTE, INTERVAL '5' MINUTE))
GROUP BY user_id, window_start, window_end;
