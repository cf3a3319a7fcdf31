// What went wrong, on top of the page, until it is dismissed.

import { button, byId, h, words } from "../dom.ts";
import type { Problem } from "../problem.ts";
import { clock } from "../text.ts";

/** More than these nobody reads. */
const SHOWN = 3;

export class Alerts {
  readonly #place = byId("alerts");
  readonly #focus: () => void;

  /** `focus` says where the keyboard goes when an alert it was in is dismissed. */
  constructor(focus: () => void) {
    this.#focus = focus;
  }

  add(problem: Problem): void {
    const head = [problem.code === undefined ? "" : String(problem.code), problem.name ?? ""].filter((part) => part !== "");
    const card = h(
      "div",
      { class: "alert", role: "alert" },
      h(
        "p",
        { class: "alert-head" },
        ...(head.length > 0 ? [h("code", {}, words(head.join(" ")))] : []),
        h("strong", {}, words(problem.message)),
        h("span", { class: "soft" }, clock(Date.now())),
      ),
    );
    if (problem.hint !== undefined) card.append(h("p", {}, h("span", { class: "soft" }, "hint: "), words(problem.hint)));
    card.append(button("Dismiss", () => this.#dismiss(card), { class: "quiet", "aria-label": `Dismiss: ${problem.message}` }));
    this.#place.prepend(card);
    while (this.#place.childElementCount > SHOWN) this.#place.lastElementChild?.remove();
  }

  clear(): void {
    this.#place.replaceChildren();
  }

  #dismiss(card: HTMLElement): void {
    card.remove();
    const next = this.#place.querySelector("button");
    if (next === null) this.#focus();
    else next.focus();
  }
}
