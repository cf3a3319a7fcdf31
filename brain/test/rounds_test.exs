defmodule Brain.RoundsTest do
  @moduledoc """
  Two Brains that hear the same Shields at their own pace, either or both of them emitting, and a
  watcher that follows docs/presence.md.
  """
  use ExUnit.Case, async: true

  import Brain.Prop
  import :proper_types, only: [list: 1, frequency: 1, elements: 1, choose: 2]
  alias Brain.{Roster, Rounds, Watcher, World}

  @account "AAA"
  @rooms ["a", "b", "c"]
  @config %{
    count_tick_ms: 1000,
    full_limit: 500,
    state_max_bytes: 100_000,
    sessions_listed: 100,
    digest_ms: 10_000
  }

  describe "two emitters and a watcher" do
    test "it converges, knows the truth of its coverage at each step, and tells no false leave" do
      check(commands(), &run(&1, @config), numtests: 2000)
    end

    test "likewise where rooms are truncated and fall back" do
      check(commands(), &run(&1, %{@config | full_limit: 1}), numtests: 2000)
    end

    test "an answer follows on the chain of events, and the next event on the answer" do
      rounds = Rounds.new(@config, "a")
      {r, _, _} = Roster.show(Roster.new(), "s1", 1)
      rounds = Rounds.emitters(rounds, r, ["a"], 0)

      join = fn r, rounds, n ->
        put = {:put, World.entry(1, "s1", "a", n, n, 0)}
        {:ok, r, facts} = Roster.changes(r, "s1", 1, @account, n, [put])
        {r, Rounds.note(rounds, @account, facts, 0)}
      end

      {r, rounds} = join.(r, rounds, 1)

      {rounds, [{_, {:events, _, _, _, [{"a", 0, first, 1, false, [_], []}], _}}]} =
        Rounds.tell_early(rounds, r, @account, "a", 0)

      assert {_, _, ^first, _} = Roster.totals(r, @account, "a")
      {r, rounds} = join.(r, rounds, 2)
      # Once a tick: whoever asks next is answered ahead of the chain.
      {rounds, []} = Rounds.tell_early(rounds, r, @account, "a", 0)
      {rounds, [{_, {:events, _, _, _, [event], _}} | _]} = Rounds.tick(rounds, r, 0, 1_000_000)
      assert {"a", ^first, second, 2, false, [_], []} = event

      {r, rounds} = join.(r, rounds, 3)

      assert {_, [{_, {:events, _, _, _, [{"a", ^second, _, 3, false, [_], []}], _}}]} =
               Rounds.tell_early(rounds, r, @account, "a", 0)
    end

    test "an emitter whose events forget a member is noticed" do
      weaker = {"nil when was? -> {members, [user | left]}", "nil when was? -> {members, left}"}
      mod = mutant(["lib/brain/rounds.ex"], Rounds, Brain.MutantLeft.Rounds, [weaker])
      assert counterexample(commands(), &run(&1, @config, mod), numtests: 5000, shrink: false)
    end

    test "an emitter with the wrong digest before is noticed" do
      weaker =
        {"{{room, before, digest, count, false, members, left}, counted}",
         "{{room, before + digest - digest + 0 * count, digest, count, false, members, []}, counted}"}

      mod = mutant(["lib/brain/rounds.ex"], Rounds, Brain.MutantBefore.Rounds, [weaker])
      assert counterexample(commands(), &run(&1, @config, mod), numtests: 5000, shrink: false)
    end

    test "an emitter that never sends digests is noticed" do
      weaker =
        {"if to == \"\",\n        do: forget", "_ = command\n if true,\n        do: forget"}

      skip = {"{out, credit} = charge([command], {out, credit})", "{out, credit} = {out, credit}"}
      mod = mutant(["lib/brain/rounds.ex"], Rounds, Brain.MutantSweep.Rounds, [weaker, skip])
      assert counterexample(commands(), &run(&1, @config, mod), numtests: 5000, shrink: false)
    end
  end

  defp commands do
    brain = elements([:a, :b])
    shield = elements(["s1", "s2"])

    list(
      frequency([
        {8, {:put, shield, @account, elements(@rooms), choose(1, 5), choose(0, 2)}},
        {5, {:gone, shield, @account, elements(@rooms), choose(1, 5)}},
        {8, {:flush, shield, @account}},
        {10, {:hear, brain}},
        {8, {:tick, brain}},
        {10, {:arrive, brain}},
        {1, {:lose, brain}},
        {4, {:query, brain}},
        {2, {:emitters, elements([[:a], [:b], [:a, :b]])}},
        {1, {:hide, brain, shield}},
        {1, {:show, brain, shield}},
        {1, {:restart, shield}}
      ])
    )
  end

  defp run(commands, config, mod \\ Rounds) do
    w = World.new(Roster)
    brains = Map.new([:a, :b], fn id -> {id, brain(mod, config, id, w)} end)
    s = %{mod: mod, config: config, w: w, brains: brains, watcher: Watcher.new(@rooms), now: 0}
    s = emitters(s, [:a, :b])
    s = Enum.reduce(commands, s, fn c, s -> checked(step(s, c)) end)
    s = settle(s)

    truth = World.truth(s.brains.a.w |> Map.put(:shields, s.w.shields))

    for room <- @rooms do
      known = s.watcher.views[room]
      users = for {{_, ^room, user}, list} <- truth, into: %{}, do: {user, {length(list), list}}
      same!(known.count, map_size(users), "count")
      if not known.truncated, do: same!(known.members, users, "members of #{room}")
    end

    for {_, b} <- s.brains, do: Roster.close(b.r)
    Roster.close(s.w.r)
    true
  end

  defp same!(a, b, what), do: a == b || raise("#{what}: #{inspect(a)} is not #{inspect(b)}")

  defp brain(mod, config, id, w) do
    r =
      Enum.reduce(w.shields, Roster.new(), fn {name, %{epoch: e}}, r ->
        elem(Roster.show(r, name, e), 0)
      end)

    %{r: r, rounds: mod.new(config, Atom.to_string(id)), inbox: [], out: [], w: %{w | r: r}}
  end

  # Emitting is what a Brain believes: another emitter may believe the same.
  defp emitters(s, ids) do
    brains =
      Map.new(s.brains, fn {id, b} ->
        live = if id in ids, do: [Atom.to_string(id)], else: ["other"]
        {id, %{b | rounds: s.mod.emitters(b.rounds, b.r, live, s.now)}}
      end)

    %{s | brains: brains}
  end

  defp step(s, {op, _, _, _, _, _} = c) when op == :put, do: write(s, c)
  defp step(s, {op, _, _, _, _} = c) when op == :gone, do: write(s, c)
  defp step(s, {:flush, _, _} = c), do: write(s, c)

  defp step(s, {:restart, name}) do
    old = s.w.shields[name].epoch
    {w, _} = World.step(s.w, {:restart, name})
    tell(%{s | w: w}, [{:new, name, old, w.shields[name].epoch}])
  end

  defp step(s, {:hear, id}) do
    case s.brains[id].inbox do
      [] -> s
      [message | rest] -> s |> update(id, &%{&1 | inbox: rest}) |> heard(id, message)
    end
  end

  defp step(s, {:hide, id, name}), do: liveness(s, id, name, :hide)
  defp step(s, {:show, id, name}), do: liveness(s, id, name, :show)

  defp step(s, {:tick, id}) do
    s = %{s | now: s.now + 700}

    update(s, id, fn b ->
      {rounds, out} = s.mod.tick(b.rounds, b.r, s.now, 1_000_000)
      %{b | rounds: rounds, out: b.out ++ Enum.map(out, &elem(&1, 1))}
    end)
  end

  defp step(s, {:arrive, id}) do
    case s.brains[id].out do
      [] ->
        s

      [message | rest] ->
        s = update(s, id, &%{&1 | out: rest})
        %{s | watcher: Watcher.take(s.watcher, message)}
    end
  end

  defp step(s, {:lose, id}), do: update(s, id, &%{&1 | out: Enum.drop(&1.out, 1)})

  defp step(s, {:query, id}) do
    Enum.reduce(Watcher.asking(s.watcher), s, fn room, s ->
      update(s, id, fn b ->
        {rounds, early} = s.mod.tell_early(b.rounds, b.r, @account, room, s.now)

        %{
          b
          | rounds: rounds,
            out: b.out ++ Enum.map(early, &elem(&1, 1)) ++ [answer(s, b.r, room)]
        }
      end)
    end)
  end

  defp step(s, {:emitters, ids}), do: emitters(s, ids)

  defp answer(s, r, room) do
    {count, _, digest, _} = totals = Roster.totals(r, @account, room)
    truncated? = Rounds.truncated?(s.config, totals)
    members = if truncated?, do: [], else: Roster.members(r, @account, room, 100)
    {:answer, room, digest, Roster.coverage(r, @account), count, truncated?, members}
  end

  defp write(s, c) do
    {w, _} = World.step(s.w, c)
    tell(%{s | w: %{w | net: []}}, w.net)
  end

  defp tell(s, messages) do
    brains = Map.new(s.brains, fn {id, b} -> {id, %{b | inbox: b.inbox ++ messages}} end)
    %{s | brains: brains}
  end

  defp update(s, id, fun), do: %{s | brains: Map.update!(s.brains, id, fun)}

  defp heard(s, id, {:changes, name, epoch, account, first, changes}) do
    update(s, id, fn b ->
      {:ok, r, facts} = Roster.changes(b.r, name, epoch, account, first, changes)
      %{b | r: r, rounds: s.mod.note(b.rounds, account, facts, s.now), w: %{b.w | r: r}}
    end)
  end

  defp heard(s, id, {:new, name, old, new}) do
    s
    |> update(
      id,
      &seen(s, &1, Roster.delete(&1.r, name, old), fn r, a -> s.mod.gone(r, a, old, s.now) end)
    )
    |> update(
      id,
      &seen(s, &1, Roster.show(&1.r, name, new), fn r, a -> s.mod.back(r, a, new) end)
    )
  end

  # A Brain knows the incarnation that it has heard of, which may not be the newest.
  defp liveness(s, id, name, op) do
    update(s, id, fn b ->
      {_, epoch, _} = Enum.find(Roster.incarnations(b.r), &(elem(&1, 0) == name))
      outcome = apply(Roster, op, [b.r, name, epoch])

      seen(s, b, outcome, fn rounds, a ->
        if op == :hide,
          do: s.mod.gone(rounds, a, epoch, s.now),
          else: s.mod.back(rounds, a, epoch)
      end)
    end)
  end

  defp seen(s, b, {r, facts, accounts}, mark) do
    rounds = Enum.reduce(facts, b.rounds, fn {a, facts}, x -> s.mod.note(x, a, facts, s.now) end)
    %{b | r: r, rounds: Enum.reduce(accounts, rounds, &mark.(&2, &1)), w: %{b.w | r: r}}
  end

  defp settle(s) do
    s = Enum.reduce(["s1", "s2"], s, &step(&2, {:flush, &1, @account}))
    s = Enum.reduce([:a, :b], s, &drain(&2, &1, :inbox, :hear))

    s =
      for(id <- [:a, :b], n <- ["s1", "s2"], do: {:show, id, n}) |> Enum.reduce(s, &step(&2, &1))

    s = emitters(s, [:a])

    # What was under way arrives, then rounds with digests, each followed by the queries it calls for.
    Enum.reduce(1..5, s, fn _, s ->
      s = step(%{s | now: s.now + 20_000}, {:tick, :a})
      s = Enum.reduce([:b, :a], s, &drain(&2, &1, :out, :arrive))
      drain(step(s, {:query, :a}), :a, :out, :arrive)
    end)
  end

  defp drain(s, id, queue, op) do
    if Map.fetch!(s.brains[id], queue) == [],
      do: s,
      else: s |> step({op, id}) |> checked() |> drain(id, queue, op)
  end

  # What the watcher knows is what there was at its coverage, and who was told to have left was not
  # there in the coverage of that event.
  defp checked(s) do
    for {room, user, coverage} <- s.watcher.left do
      present = s |> members_at(room, coverage) |> Map.has_key?(user)

      if present,
        do: raise("#{user} of #{room} was told to have left but is in #{inspect(coverage)}")
    end

    # Members of a Shield that is gone may still be known; nobody who is covered may be missing.
    for {room, view} <- s.watcher.views, not view.truncated do
      missing = Map.keys(members_at(s, room, view.coverage)) -- Map.keys(view.members)
      if missing != [], do: raise("#{inspect(missing)} of #{room} are not known")
    end

    %{s | watcher: %{s.watcher | left: []}}
  end

  defp members_at(s, room, coverage) do
    for {epoch, seq} <- coverage,
        {{^room, user, _}, _} <- Map.fetch!(s.w.history, {epoch, @account, seq}),
        into: %{},
        do: {user, true}
  end
end
