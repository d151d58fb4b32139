-- ab_readout: champion against challenger in a trial or an A/B test, on randomly assigned parts
-- version: 2
-- param first_day day = first: first day, UTC
-- param last_day day = last: last day, UTC, included
-- param site name = *: only this site
-- param line name = *: only this line
-- param z number(0.1..10) = 1.959963984540054: width of the intervals in standard errors; 1.96 is 95 %
-- column site: the plant
-- column line: its line
-- column champion_version: the active model
-- column challenger_version: the model under test; NULL where no device reported on it
-- column challenger_sha256: digest of the model under test
-- column first_at: first part that both inspected, UTC
-- column last_at: the last one, UTC
-- column champion_parts: inspected by the champion alone while the challenger was on trial on the same line
-- column champion_rejected: of them defect or unsure
-- column champion_rate: their share
-- column challenger_parts: inspected by both
-- column challenger_rejected: of them defect or unsure to the challenger
-- column challenger_rate: their share
-- column difference: challenger minus champion
-- column difference_low: Newcombe's hybrid score interval (1998, method 10) for two independent samples
-- column difference_high: likewise
-- column finding: higher, lower, or alike where the interval holds 0
-- column let_through: parts that the challenger alone would have let through
-- column let_through_rate: of the parts that both inspected
WITH v AS (
  SELECT site, line, camera, boot_epoch, seq, arbitrary(captured_at) AS captured_at, arbitrary(outcome) AS outcome,
    arbitrary(model_version) AS model_version, arbitrary(arm) AS arm, arbitrary(challenger_outcome) AS other,
    arbitrary(challenger_sha256) AS challenger_sha256
  FROM verdicts
  WHERE day BETWEEN substr(CAST(date_add('day', -1, CAST(:first_day AS date)) AS varchar), 1, 10) AND :last_day
    AND captured_at >= CAST(:first_day AS timestamp)
    AND captured_at < date_add('day', 1, CAST(:last_day AS timestamp))
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line) AND arm IS NOT NULL
  GROUP BY site, line, camera, boot_epoch, seq
), both_inspected AS (
  SELECT site, line, model_version, challenger_sha256, MIN(captured_at) AS first_at, MAX(captured_at) AS last_at,
    COUNT_IF(other <> 'unknown') AS parts, COUNT_IF(other IN ('defect', 'unsure')) AS rejected,
    COUNT_IF(outcome IN ('defect', 'unsure') AND other = 'ok') AS let_through
  FROM v
  WHERE arm = 'challenger' AND challenger_sha256 IS NOT NULL
  GROUP BY site, line, model_version, challenger_sha256
), alone AS (
  SELECT b.site, b.line, b.model_version, b.challenger_sha256, COUNT_IF(v.outcome <> 'unknown') AS parts,
    COUNT_IF(v.outcome IN ('defect', 'unsure')) AS rejected
  FROM both_inspected AS b
  JOIN v ON v.site = b.site AND v.line = b.line AND v.model_version = b.model_version AND v.arm = 'champion'
    AND v.captured_at BETWEEN b.first_at AND b.last_at
  GROUP BY b.site, b.line, b.model_version, b.challenger_sha256
), named AS (
  SELECT candidate_sha256, MAX(candidate_version) AS challenger_version
  FROM model_reports
  WHERE day BETWEEN substr(CAST(date_add('day', -1, CAST(:first_day AS date)) AS varchar), 1, 10) AND :last_day
  GROUP BY candidate_sha256
), numbered AS (
  SELECT b.*, named.challenger_version, COALESCE(a.parts, 0) AS champion_parts, COALESCE(a.rejected, 0) AS champion_rejected,
    CAST(COALESCE(a.rejected, 0) AS double) AS k0, CAST(COALESCE(a.parts, 0) AS double) AS n0,
    CAST(b.rejected AS double) AS k1, CAST(b.parts AS double) AS n1, :z * :z AS zz
  FROM both_inspected AS b
  LEFT JOIN alone AS a ON a.site = b.site AND a.line = b.line AND a.model_version = b.model_version
    AND a.challenger_sha256 = b.challenger_sha256
  LEFT JOIN named ON named.candidate_sha256 = b.challenger_sha256
), rated AS (
  SELECT *, k0 / NULLIF(n0, 0) AS p0, k1 / NULLIF(n1, 0) AS p1,
    CASE WHEN n0 = 0 THEN NULL WHEN k0 = 0 THEN 0e0
      ELSE (k0 + zz / 2) / (n0 + zz) - :z / (n0 + zz) * sqrt(k0 * (n0 - k0) / n0 + zz / 4) END AS low0,
    CASE WHEN n0 = 0 THEN NULL WHEN k0 = n0 THEN 1e0
      ELSE (k0 + zz / 2) / (n0 + zz) + :z / (n0 + zz) * sqrt(k0 * (n0 - k0) / n0 + zz / 4) END AS high0,
    CASE WHEN n1 = 0 THEN NULL WHEN k1 = 0 THEN 0e0
      ELSE (k1 + zz / 2) / (n1 + zz) - :z / (n1 + zz) * sqrt(k1 * (n1 - k1) / n1 + zz / 4) END AS low1,
    CASE WHEN n1 = 0 THEN NULL WHEN k1 = n1 THEN 1e0
      ELSE (k1 + zz / 2) / (n1 + zz) + :z / (n1 + zz) * sqrt(k1 * (n1 - k1) / n1 + zz / 4) END AS high1
  FROM numbered
), compared AS (
  SELECT *, p1 - p0 AS difference,
    p1 - p0 - sqrt(power(p1 - low1, 2) + power(high0 - p0, 2)) AS difference_low,
    p1 - p0 + sqrt(power(high1 - p1, 2) + power(p0 - low0, 2)) AS difference_high
  FROM rated
)
SELECT site, line, model_version AS champion_version, challenger_version, challenger_sha256, first_at, last_at, champion_parts,
  champion_rejected, p0 AS champion_rate, parts AS challenger_parts, rejected AS challenger_rejected,
  p1 AS challenger_rate, difference, difference_low, difference_high,
  CASE WHEN difference IS NULL THEN NULL WHEN difference_low > 0 THEN 'higher' WHEN difference_high < 0 THEN 'lower'
    ELSE 'alike' END AS finding,
  let_through, CAST(let_through AS double) / NULLIF(parts, 0) AS let_through_rate
FROM compared
ORDER BY site, line, first_at, challenger_sha256
