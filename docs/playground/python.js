// Starts the interpreter with NumPy, dualnet and the session beside it, and returns a function that asks the session.
const MODULES = ["__init__", "blocks", "breaking", "console", "desk", "exercises", "looking", "notebook", "pictures", "plan", "printed", "training"];
const HERE = new URL("./", import.meta.url);

async function fetched(name, from = HERE) {
  const response = await fetch(new URL(name, from));
  if (!response.ok) throw new Error(`${name} is not here (${response.status}).`);
  return response;
}

export async function start(pyodide, say) {
  const home = new URL(pyodide, HERE);
  const wheel = fetched("dualnet.whl").then((response) => response.arrayBuffer());
  const session = Promise.all(MODULES.map(async (name) => [name, await (await fetched(`session/${name}.py`)).text()]));
  wheel.catch(() => null);
  session.catch(() => null);
  say("Loading Python …");
  const { loadPyodide } = await import(new URL("pyodide.mjs", home).href).catch((error) => { throw new Error(`Pyodide, the Python of this page, could not be loaded from ${home.href} (${error.message}).`, { cause: error }); });
  const python = await loadPyodide({ indexURL: home.href, packages: ["numpy"], stdout: () => null, stderr: () => null });
  say("Loading dualnet …");
  const site = python.runPython("import sysconfig; sysconfig.get_paths()['purelib']");
  python.unpackArchive(await wheel, "wheel", { extractDir: site });
  python.FS.mkdirTree(`${site}/session`);
  for (const [name, text] of await session) python.FS.writeFile(`${site}/session/${name}.py`, text);
  const desk = python.runPython("import warnings; warnings.simplefilter('ignore'); from session import Desk; Desk()");
  return async (method, given) => JSON.parse(desk.ask(method, JSON.stringify(given ?? {})));
}
