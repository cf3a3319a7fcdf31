// How long something took, of late.

/** As many as are kept. */
const KEPT = 120;

export interface Summary {
  readonly last: number;
  readonly median: number;
  readonly p95: number;
  readonly count: number;
}

export class Samples {
  /** Milliseconds, oldest first. */
  readonly values: number[] = [];
  #count = 0;

  add(ms: number): void {
    this.#count++;
    this.values.push(ms);
    if (this.values.length > KEPT) this.values.shift();
  }

  clear(): void {
    this.values.length = 0;
    this.#count = 0;
  }

  summary(): Summary | undefined {
    const last = this.values.at(-1);
    if (last === undefined) return undefined;
    const sorted = [...this.values].sort((a, b) => a - b);
    const at = (part: number): number => sorted[Math.ceil(part * sorted.length) - 1] ?? last;
    return { last, median: at(0.5), p95: at(0.95), count: this.#count };
  }
}
