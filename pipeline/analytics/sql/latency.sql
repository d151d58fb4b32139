-- latency: latency of verdicts, by device and day
-- version: 1
-- param first_day day = first: first day, UTC
-- param last_day day = last: last day, UTC, included
-- param site name = *: only this site
-- param line name = *: only this line
-- param limit_us number(1..1e9) = 10000: a verdict that took longer is late
-- column site: the plant
-- column line: its line
-- column thing: the device
-- column date: UTC day
-- column parts: inspected
-- column p50_us: nearest-rank percentile, rounded up to 0.1 ms
-- column p95_us: likewise
-- column p99_us: likewise
-- column max_us: the longest
-- column late: parts beyond the limit
-- column late_share: of the inspected parts
WITH v AS (
  SELECT site, line, camera, boot_epoch, seq, arbitrary(thing) AS thing, arbitrary(captured_at) AS captured_at,
    arbitrary(latency_us) AS latency_us
  FROM verdicts
  WHERE day BETWEEN substr(CAST(date_add('day', -1, CAST(:first_day AS date)) AS varchar), 1, 10) AND :last_day
    AND captured_at >= CAST(:first_day AS timestamp)
    AND captured_at < date_add('day', 1, CAST(:last_day AS timestamp))
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line) AND outcome <> 'unknown'
  GROUP BY site, line, camera, boot_epoch, seq
), bucketed AS (
  SELECT site, line, thing, CAST(captured_at AS date) AS date, ceil(latency_us / 1e2) * 100 AS bucket_us,
    COUNT(*) AS parts, MAX(latency_us) AS max_us, COUNT_IF(latency_us > :limit_us) AS late
  FROM v
  GROUP BY site, line, thing, CAST(captured_at AS date), ceil(latency_us / 1e2) * 100
), ranked AS (
  SELECT *, SUM(parts) OVER (PARTITION BY site, line, thing, date ORDER BY bucket_us) AS so_far,
    SUM(parts) OVER (PARTITION BY site, line, thing, date) AS whole
  FROM bucketed
)
SELECT site, line, thing, date, CAST(SUM(parts) AS bigint) AS parts,
  CAST(MIN(CASE WHEN so_far >= 0.5e0 * whole THEN bucket_us END) AS bigint) AS p50_us,
  CAST(MIN(CASE WHEN so_far >= 0.95e0 * whole THEN bucket_us END) AS bigint) AS p95_us,
  CAST(MIN(CASE WHEN so_far >= 0.99e0 * whole THEN bucket_us END) AS bigint) AS p99_us,
  MAX(max_us) AS max_us, CAST(SUM(late) AS bigint) AS late,
  CAST(SUM(late) AS double) / SUM(parts) AS late_share
FROM ranked
GROUP BY site, line, thing, date
ORDER BY site, line, thing, date
