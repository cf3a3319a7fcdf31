// How long to wait before connecting again.

/** Of the first retry. */
const FIRST_MS = 250;
/** Of all later ones. */
const LONGEST_MS = 10_000;

/** Full jitter over a span that doubles: many pages that lost one Shield come back spread. */
export function delay(attempt: number, chance: number): number {
  const span = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempt, 10));
  return Math.round(span / 2 + (span / 2) * chance);
}

/** When to move after a GOAWAY. */
export function away(retryAfterMs: number, spreadMs: number, chance: number): number {
  return retryAfterMs + Math.round(spreadMs * chance);
}
