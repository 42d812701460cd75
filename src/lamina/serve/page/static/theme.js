// Light, dark, or whatever the system prefers.

const KEY = "lamina-theme";
const CHOICES = ["system", "light", "dark"];

let choice = localStorage.getItem(KEY) ?? "system";
apply();

/** Let `button` go through the choices, and return what does so. */
export function themeToggle(button) {
  const show = () => { button.textContent = `Theme: ${choice}`; };
  const next = () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
    localStorage.setItem(KEY, choice);
    apply();
    show();
  };
  button.addEventListener("click", next);
  show();
  return next;
}

function apply() {
  if (choice === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
}
