// Elements, made without a parser: what is put into them is text, whoever wrote it.

import { visible } from "./text.ts";

/** The element of the page with this id. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`the page has no #${id}`);
  return element as T;
}

type Attributes = Readonly<Record<string, string | boolean | undefined>>;

/** An element with attributes and children; a child that is text stays text. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (typeof value === "string") element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Others' words: apart from what stands beside them, with escapes for what does not show. */
export function words(text: string, lines = false): HTMLElement {
  const place = h("bdi", {});
  for (const { text: piece, escape } of visible(text, lines)) {
    place.append(escape ? h("span", { class: "escape" }, piece) : piece);
  }
  return place;
}

export function button(label: string, act: () => void, attributes: Attributes = {}): HTMLButtonElement {
  const element = h("button", { type: "button", ...attributes }, label);
  element.addEventListener("click", act);
  return element;
}

/** Shows or hides. */
export function show(element: HTMLElement, visible_: boolean): void {
  element.hidden = !visible_;
}
