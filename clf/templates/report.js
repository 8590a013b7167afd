"use strict";
// Sorts tables by a click on a column's head; without this script they are as they are written.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const heads = [...table.querySelectorAll("th[data-column]")];
  const collator = new Intl.Collator("en", { numeric: true });

  const value = (row, column) => row.cells[column].dataset.value ?? "";
  const compare = (one, other) => {
    const difference = Number(one) - Number(other);
    return Number.isNaN(difference) ? collator.compare(one, other) : difference;
  };

  const sort = (head, column) => {
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...body.rows].sort((first, second) => {
      const one = value(first, column);
      const other = value(second, column);
      // What has no value comes last, whichever way the others go.
      if (one === "" || other === "") return Number(one === "") - Number(other === "");
      return sign * compare(one, other);
    });
    for (const other of heads) other.setAttribute("aria-sort", other === head ? direction : "none");
    body.append(...rows);
    document.getElementById("said").textContent = `sorted by ${head.textContent}, ${direction}`;
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(head, column));
  });
}
