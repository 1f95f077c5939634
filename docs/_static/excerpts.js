/*
 * Sphinx fetches each page that a search finds, to show an excerpt of it. A browser does not fetch
 * files from a disk. There, this script answers with the text from _excerpts/<page>.js, which
 * docs/_ext/excerpts.py writes.
 */
if (location.protocol === "file:") {
  const root = new URL(".", location.href);
  const resolvers = new Map();

  window.excerptLoaded = (page, body) => resolvers.get(page)?.(body);

  const bodyOf = (page) =>
    new Promise((resolve, reject) => {
      resolvers.set(page, resolve);
      const script = document.createElement("script");
      script.src = new URL(`_excerpts/${page}.js`, root);
      script.onerror = () => reject(new Error(`no excerpt of ${page}`));
      document.head.append(script);
    });

  const bodies = new Map();

  window.fetch = async (address) => {
    const page = new URL(address, root).href.slice(root.href.length).replace(/\.html$/, "");
    if (!bodies.has(page)) bodies.set(page, bodyOf(page));
    const body = await bodies.get(page);
    return new Response(`<div role="main">${body}</div>`);
  };
}
