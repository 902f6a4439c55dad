const STRANGE = "The part of the address after # holds no settings of the playground.";

// The settings in the page's address: what differs from the default, as JSON.
export function settingsOf(hash, standard) {
  if (hash.length < 2) return structuredClone(standard);
  let given;
  try {
    given = JSON.parse(decodeURIComponent(hash.slice(1)));
  } catch {
    throw new Error(STRANGE);
  }
  if (given === null || typeof given !== "object" || Array.isArray(given)) throw new Error(STRANGE);
  return { ...structuredClone(standard), ...given };
}

export function hashOf(settings, standard) {
  const differing = Object.entries(settings).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(standard[name]));
  if (!differing.length) return "";
  return `#${encodeURIComponent(JSON.stringify(Object.fromEntries(differing)))}`;
}
