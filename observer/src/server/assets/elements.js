// Elements, whose text is never markup.

export function element(name, kind) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  return made;
}

export function append(place, name, kind) {
  const made = element(name, kind);
  place.append(made);
  return made;
}

export function vector(place, name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  place.append(made);
  return made;
}

// Only what has changed costs a layout.
export function set(place, words) {
  if (place.textContent !== words) place.textContent = words;
}
