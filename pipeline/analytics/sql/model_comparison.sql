-- model_comparison: reject rates of model versions, each against the one before it on the same line
-- version: 1
-- param first_day day = first: first day, UTC
-- param last_day day = last: last day, UTC, included
-- param site name = *: only this site
-- param line name = *: only this line
-- param z number(0.1..10) = 1.959963984540054: width of the intervals in standard errors; 1.96 is 95 %
-- column site: the plant
-- column line: its line
-- column model_name: the model
-- column model_version: its version
-- column first_at: its first verdict, UTC
-- column last_at: its last verdict, UTC
-- column parts: inspected, without unknown
-- column rejected: of them defect or unsure
-- column reject_rate: rejected / parts
-- column reject_low: Wilson's interval
-- column reject_high: likewise
-- column unknown: parts without a decision
-- column before_version: the version that began before it on this line
-- column difference: of the reject rates, this version minus the one before
-- column difference_low: Newcombe's hybrid score interval (1998, method 10)
-- column difference_high: likewise
-- column finding: higher, lower, or alike where the interval holds 0. Parts differ over time: this is no experiment
WITH v AS (
  SELECT site, line, camera, boot_epoch, seq, arbitrary(captured_at) AS captured_at, arbitrary(outcome) AS outcome,
    arbitrary(model_name) AS model_name, arbitrary(model_version) AS model_version
  FROM verdicts
  WHERE day BETWEEN substr(CAST(date_add('day', -1, CAST(:first_day AS date)) AS varchar), 1, 10) AND :last_day
    AND captured_at >= CAST(:first_day AS timestamp)
    AND captured_at < date_add('day', 1, CAST(:last_day AS timestamp))
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line) AND model_version IS NOT NULL
    AND COALESCE(arm, 'champion') = 'champion'
  GROUP BY site, line, camera, boot_epoch, seq
), counted AS (
  SELECT site, line, model_name, model_version, MIN(captured_at) AS first_at, MAX(captured_at) AS last_at,
    COUNT_IF(outcome <> 'unknown') AS parts, COUNT_IF(outcome IN ('defect', 'unsure')) AS rejected,
    COUNT_IF(outcome = 'unknown') AS unknown
  FROM v
  GROUP BY site, line, model_name, model_version
), numbered AS (
  SELECT *, CAST(rejected AS double) AS k, CAST(parts AS double) AS n, :z * :z AS zz FROM counted
), rated AS (
  SELECT *, k / NULLIF(n, 0) AS p,
    CASE WHEN n = 0 THEN NULL WHEN k = 0 THEN 0e0
      ELSE (k + zz / 2) / (n + zz) - :z / (n + zz) * sqrt(k * (n - k) / n + zz / 4) END AS low,
    CASE WHEN n = 0 THEN NULL WHEN k = n THEN 1e0
      ELSE (k + zz / 2) / (n + zz) + :z / (n + zz) * sqrt(k * (n - k) / n + zz / 4) END AS high
  FROM numbered
), paired AS (
  SELECT *,
    LAG(model_version) OVER (PARTITION BY site, line, model_name ORDER BY first_at, model_version) AS before_version,
    LAG(p) OVER (PARTITION BY site, line, model_name ORDER BY first_at, model_version) AS before_p,
    LAG(low) OVER (PARTITION BY site, line, model_name ORDER BY first_at, model_version) AS before_low,
    LAG(high) OVER (PARTITION BY site, line, model_name ORDER BY first_at, model_version) AS before_high
  FROM rated
), compared AS (
  SELECT *, p - before_p AS difference,
    p - before_p - sqrt(power(p - low, 2) + power(before_high - before_p, 2)) AS difference_low,
    p - before_p + sqrt(power(high - p, 2) + power(before_p - before_low, 2)) AS difference_high
  FROM paired
)
SELECT site, line, model_name, model_version, first_at, last_at, parts, rejected, p AS reject_rate,
  low AS reject_low, high AS reject_high, unknown, before_version, difference, difference_low,
  difference_high,
  CASE WHEN difference IS NULL THEN NULL WHEN difference_low > 0 THEN 'higher' WHEN difference_high < 0 THEN 'lower'
    ELSE 'alike' END AS finding
FROM compared
ORDER BY site, line, model_name, first_at, model_version
