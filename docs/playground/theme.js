// Light and dark: as the system has it, or as the reader chooses. The choice is shared with the page of dn.explain.
export function theme(changed) {
  const choose = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
    try { localStorage.setItem("dualnet-theme", name); } catch { /* a frame may have no storage */ }
    changed();
  };
  let remembered = null;
  try { remembered = localStorage.getItem("dualnet-theme"); } catch { /* none */ }
  const radios = document.getElementById("theme");
  const radio = radios.querySelector(`input[value="${CSS.escape(remembered ?? "auto")}"]`);
  if (radio) { radio.checked = true; if (radio.value !== "auto") document.documentElement.dataset.theme = radio.value; }
  radios.addEventListener("change", (event) => choose(event.target.value));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => changed());
}
