-- score_drift: whether a model's scores have drifted since its first days on a line
-- version: 2
-- param first_day day = first: first day, UTC
-- param last_day day = last: last day, UTC, included
-- param site name = *: only this site
-- param line name = *: only this line
-- param reference_days whole(1..60) = 3: first days of a version on a line: the reference for its later days
-- param bins whole(2..100) = 20: of equal width over scores from 0 to 1
-- column site: the plant
-- column line: its line
-- column model_version: the model
-- column date: UTC day
-- column parts: inspected on that day
-- column reference_parts: inspected in the reference
-- column mean_score: of that day
-- column psi: population stability index, counts smoothed by 0.5 as in agent.sequential_tests.psi
-- column finding: steady below 0.1, moderate below 0.25, else changed
WITH v AS (
  SELECT site, line, camera, boot_epoch, seq, arbitrary(captured_at) AS captured_at, arbitrary(score) AS score,
    arbitrary(model_version) AS model_version
  FROM verdicts
  WHERE day BETWEEN substr(CAST(date_add('day', -1, CAST(:first_day AS date)) AS varchar), 1, 10) AND :last_day
    AND captured_at >= CAST(:first_day AS timestamp)
    AND captured_at < date_add('day', 1, CAST(:last_day AS timestamp))
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line)
    AND outcome <> 'unknown' AND model_version IS NOT NULL AND COALESCE(arm, 'champion') = 'champion'
  GROUP BY site, line, camera, boot_epoch, seq
), binned AS (
  SELECT site, line, model_version, CAST(captured_at AS date) AS date,
    CASE WHEN score >= 1 THEN :bins - 1 ELSE CAST(floor(score * :bins) AS bigint) END AS bin, COUNT(*) AS parts,
    SUM(score) AS total
  FROM v
  GROUP BY site, line, model_version, CAST(captured_at AS date),
    CASE WHEN score >= 1 THEN :bins - 1 ELSE CAST(floor(score * :bins) AS bigint) END
), placed AS (
  SELECT *, MIN(date) OVER (PARTITION BY site, line, model_version) AS began FROM binned
), reference AS (
  SELECT site, line, model_version, bin, SUM(parts) AS parts
  FROM placed
  WHERE date < date_add('day', :reference_days, began)
  GROUP BY site, line, model_version, bin
), reference_whole AS (
  SELECT site, line, model_version, SUM(parts) AS parts FROM reference GROUP BY site, line, model_version
), days AS (
  SELECT site, line, model_version, date, SUM(parts) AS parts, SUM(total) AS total
  FROM placed
  WHERE date >= date_add('day', :reference_days, began)
  GROUP BY site, line, model_version, date
), cells AS (
  SELECT d.site, d.line, d.model_version, d.date, d.parts AS day_parts, w.parts AS whole, d.total,
    (COALESCE(r.parts, 0) + 0.5e0) / (w.parts + 0.5e0 * :bins) AS p,
    (COALESCE(b.parts, 0) + 0.5e0) / (d.parts + 0.5e0 * :bins) AS q
  FROM days AS d
  JOIN reference_whole AS w ON w.site = d.site AND w.line = d.line AND w.model_version = d.model_version
  CROSS JOIN UNNEST(sequence(0, :bins - 1)) AS n(bin)
  LEFT JOIN reference AS r ON r.site = d.site AND r.line = d.line AND r.model_version = d.model_version
    AND r.bin = n.bin
  LEFT JOIN binned AS b ON b.site = d.site AND b.line = d.line AND b.model_version = d.model_version
    AND b.date = d.date AND b.bin = n.bin
), found AS (
  SELECT site, line, model_version, date, MAX(day_parts) AS parts, MAX(whole) AS reference_parts,
    MAX(total) / MAX(day_parts) AS mean_score, SUM((q - p) * ln(q / p)) AS psi
  FROM cells
  GROUP BY site, line, model_version, date
)
SELECT site, line, model_version, date, CAST(parts AS bigint) AS parts,
  CAST(reference_parts AS bigint) AS reference_parts, mean_score, psi,
  CASE WHEN psi < 0.1e0 THEN 'steady' WHEN psi < 0.25e0 THEN 'moderate' ELSE 'changed' END AS finding
FROM found
ORDER BY site, line, model_version, date
