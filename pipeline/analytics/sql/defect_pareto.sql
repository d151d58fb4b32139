-- defect_pareto: the most frequent defect classes, by line
-- version: 2
-- param first_day day = first: first day, UTC
-- param last_day day = last: last day, UTC, included
-- param site name = *: only this site
-- param line name = *: only this line
-- column site: the plant
-- column line: its line
-- column place: 1 for the most frequent class of the line
-- column class: the defect class of the verdict
-- column parts: rejected for it
-- column share: of all rejected parts of the line
-- column cumulative_share: of this and the classes before it
-- column per_million: rejected for it, of a million inspected parts of the line
WITH v AS (
  SELECT site, line, camera, boot_epoch, seq, arbitrary(outcome) AS outcome, arbitrary(class) AS class
  FROM verdicts
  WHERE day BETWEEN substr(CAST(date_add('day', -1, CAST(:first_day AS date)) AS varchar), 1, 10) AND :last_day
    AND captured_at >= CAST(:first_day AS timestamp)
    AND captured_at < date_add('day', 1, CAST(:last_day AS timestamp))
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line) AND outcome <> 'unknown'
  GROUP BY site, line, camera, boot_epoch, seq
), inspected AS (
  SELECT site, line, CASE WHEN outcome = 'defect' THEN COALESCE(class, 'not named') END AS class, COUNT(*) AS parts
  FROM v
  GROUP BY site, line, CASE WHEN outcome = 'defect' THEN COALESCE(class, 'not named') END
), whole AS (
  SELECT site, line, SUM(parts) AS parts, SUM(CASE WHEN class IS NULL THEN 0 ELSE parts END) AS rejected
  FROM inspected
  GROUP BY site, line
), placed AS (
  SELECT inspected.site, inspected.line, inspected.class, inspected.parts, whole.parts AS line_parts, whole.rejected,
    ROW_NUMBER() OVER (PARTITION BY inspected.site, inspected.line ORDER BY inspected.parts DESC, inspected.class) AS place
  FROM inspected JOIN whole ON inspected.site = whole.site AND inspected.line = whole.line
  WHERE inspected.class IS NOT NULL
)
SELECT site, line, place, class, parts,
  CAST(parts AS double) / rejected AS share,
  CAST(SUM(parts) OVER (PARTITION BY site, line ORDER BY place) AS double) / rejected AS cumulative_share,
  1e6 * parts / line_parts AS per_million
FROM placed
ORDER BY site, line, place
