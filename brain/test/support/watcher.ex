defmodule Brain.Watcher do
  @moduledoc """
  A Shield's side, by the rules of docs/presence.md: what its watchers know of each room of one
  tenant, from events, digests and answers. Written from the page, not from Brain's code.
  """

  defstruct views: %{}, asks: %{}, left: []

  @doc "A watcher that has asked for nothing yet: every room must be queried first."
  def new(rooms), do: %__MODULE__{asks: Map.new(rooms, &{&1, 0})}

  @doc "Rooms to be asked for, now."
  def asking(w), do: Map.keys(w.asks)

  def take(w, {:events, _, coverage, gone, rooms, _}) do
    coverage = Map.new(coverage)
    views = Map.new(w.views, fn {r, v} -> {r, %{v | coverage: Map.drop(v.coverage, gone)}} end)
    Enum.reduce(rooms, %{w | views: views}, &event(&2, &1, coverage))
  end

  def take(w, {:digests, _, _, from, to, listed}) do
    listed = Map.new(listed, fn {room, digest, count} -> {room, {digest, count}} end)

    Enum.reduce(w.views, w, fn {room, view}, w ->
      in_range? = room > from and (to == "" or room <= to)
      {digest, _} = Map.get(listed, room, {0, 0})
      if in_range? and view.digest != digest, do: ask(w, room), else: w
    end)
  end

  def take(w, {:answer, room, digest, coverage, count, truncated?, members}) do
    coverage = Map.new(coverage)
    asked = Map.get(w.asks, room)
    view = w.views[room]

    cond do
      asked == nil ->
        w

      view != nil and asked < 2 and behind?(coverage, view.coverage) ->
        %{w | asks: Map.put(w.asks, room, asked + 1)}

      true ->
        view = %{
          digest: digest,
          coverage: coverage,
          truncated: truncated?,
          count: count,
          members: Map.new(members, &named/1)
        }

        %{w | views: Map.put(w.views, room, view), asks: Map.delete(w.asks, room)}
    end
  end

  defp event(w, {room, before, digest, count, truncated?, members, left}, coverage) do
    view = w.views[room]

    cond do
      view == nil ->
        w

      view.truncated and not truncated? ->
        if behind?(coverage, view.coverage), do: w, else: ask(w, room)

      digest == view.digest ->
        joined = Map.merge(view.coverage, coverage, fn _, a, b -> max(a, b) end)
        put(w, room, %{view | coverage: joined})

      behind?(coverage, view.coverage) ->
        w

      truncated? ->
        put(w, room, %{
          view
          | truncated: true,
            digest: digest,
            count: count,
            coverage: coverage,
            members: %{}
        })

      before == view.digest ->
        now = view.members |> Map.drop(left) |> Map.merge(Map.new(members, &named/1))
        w = %{w | left: Enum.map(left, &{room, &1, coverage}) ++ w.left}
        put(w, room, %{view | digest: digest, count: count, coverage: coverage, members: now})

      true ->
        ask(w, room)
    end
  end

  defp named({user, count, sessions}) do
    {user, {count, sessions |> Enum.map(fn {s, m, j, _} -> {s, m, j} end) |> Enum.sort()}}
  end

  defp behind?(coverage, view) do
    Enum.any?(view, fn {epoch, seq} -> Map.get(coverage, epoch, -1) < seq end)
  end

  defp put(w, room, view), do: %{w | views: Map.put(w.views, room, view)}
  defp ask(w, room), do: %{w | asks: Map.put_new(w.asks, room, 0)}
end
