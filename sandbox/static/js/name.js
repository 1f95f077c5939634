/** The author's name of this tab: the same after a reload, another one in every tab. */

const ANIMALS = [
  "Badger", "Beaver", "Bison", "Crane", "Dingo", "Falcon", "Fox", "Gecko", "Heron", "Ibex",
  "Koala", "Lemur", "Lynx", "Marmot", "Otter", "Owl", "Panda", "Puffin", "Raven", "Seal",
];

const KEY = "showcase-name";

export const NAME = remembered() ?? invented();

/** Splits "Otter-27: hello" into author and text; a line without an author has the author "". */
export function spoken(line) {
  const [, author = "", text = line] = /^([\p{L}\p{N}_-]+): (.*)$/su.exec(line) ?? [];
  return { author, text };
}

function invented() {
  const animal = ANIMALS[Math.floor(Math.random() * ANIMALS.length)];
  const name = `${animal}-${10 + Math.floor(Math.random() * 90)}`;
  try {
    sessionStorage.setItem(KEY, name);
  } catch {
    // Forbidden by the browser's settings: the name lasts until the next reload.
  }
  return name;
}

function remembered() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}
