-- yield_by_line: share of good parts, by line and period
-- version: 1
-- param first_day day = first: first day, UTC
-- param last_day day = last: last day, UTC, included
-- param site name = *: only this site
-- param line name = *: only this line
-- param grain hour|day|week = hour: length of a period
-- param z number(0.1..10) = 1.959963984540054: width of the intervals in standard errors; 1.96 is 95 %
-- column site: the plant
-- column line: its line
-- column period: start of the hour, day or week, UTC
-- column parts: inspected, each key once
-- column ok: let through
-- column defect: rejected
-- column unsure: sent to manual inspection
-- column unknown: no decision was possible; not in the yield
-- column yield: ok / (parts - unknown)
-- column yield_low: Wilson's interval
-- column yield_high: likewise
WITH v AS (
  SELECT site, line, camera, boot_epoch, seq, arbitrary(captured_at) AS captured_at, arbitrary(outcome) AS outcome
  FROM verdicts
  WHERE day BETWEEN substr(CAST(date_add('day', -1, CAST(:first_day AS date)) AS varchar), 1, 10) AND :last_day
    AND captured_at >= CAST(:first_day AS timestamp)
    AND captured_at < date_add('day', 1, CAST(:last_day AS timestamp))
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line)
  GROUP BY site, line, camera, boot_epoch, seq
), counted AS (
  SELECT site, line, date_trunc(:grain, captured_at) AS period, COUNT(*) AS parts,
    COUNT_IF(outcome = 'ok') AS ok, COUNT_IF(outcome = 'defect') AS defect,
    COUNT_IF(outcome = 'unsure') AS unsure, COUNT_IF(outcome = 'unknown') AS unknown
  FROM v
  GROUP BY site, line, date_trunc(:grain, captured_at)
), rated AS (
  SELECT *, CAST(ok AS double) AS k, CAST(parts - unknown AS double) AS n, :z * :z AS zz FROM counted
)
SELECT site, line, period, parts, ok, defect, unsure, unknown,
  k / NULLIF(n, 0) AS yield,
  CASE WHEN n = 0 THEN NULL WHEN k = 0 THEN 0e0
    ELSE (k + zz / 2) / (n + zz) - :z / (n + zz) * sqrt(k * (n - k) / n + zz / 4) END AS yield_low,
  CASE WHEN n = 0 THEN NULL WHEN k = n THEN 1e0
    ELSE (k + zz / 2) / (n + zz) + :z / (n + zz) * sqrt(k * (n - k) / n + zz / 4) END AS yield_high
FROM rated
ORDER BY site, line, period
